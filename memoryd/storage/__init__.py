"""How sessions live in Redis (>= 7.0) or Valkey (>= 8): names, scripts, blobs, codec, server.

`keys` names what is stored; `store` speaks the session protocol through the short scripts in
`scripts/`; `blobs` moves checkpoints on a connection of its own; `codec` turns a state into bytes
and back; `heartbeat` says which daemon lives; `embedded` runs a private server. Nothing here
imports torch or `lalte`: a state is bytes, an array is a name, a type and a buffer.
"""
