"""What a tenant may have, held by all daemons together: sessions, bytes, tokens a minute, replies.

The figures lie in Redis, in the tenant's own slot (`memoryd.storage.tenants`). What is asked there
on the way of a call is waited for only briefly: while Redis does not answer, reads of loaded
sessions go on by what is known here. May import storage, metrics and errors; `sessions` and `rpc`
import it.
"""
