"""Package `memoryd.v1`: the .proto files and the stubs generated from them by `make proto`."""
