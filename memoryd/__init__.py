"""The memoryd daemon: sessions whose memory has a fixed size, kept in Redis, served by gRPC.

`app` puts the parts together; `rpc` speaks to clients, `sessions` owns each session's order of
events, `engine` runs the model, `storage` speaks to Redis, `cli` to people.
"""
