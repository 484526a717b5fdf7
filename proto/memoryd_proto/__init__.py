"""The wire protocol of memoryd: proto files, generated stubs and the table of errors.

Stands on grpcio and protobuf alone; everything else of ours may import it.
"""
