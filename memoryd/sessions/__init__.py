"""Sessions: each has one actor, which owns the order of what happens to it.

`text` turns pieces into tokens, `writers` recognises retries, `journal` remembers what Redis could
lose, `chat` and `query` write replies, `manager` finds or becomes a session's owner. Imports
storage and engine; is imported by rpc and app. No tensor is touched here.
"""
