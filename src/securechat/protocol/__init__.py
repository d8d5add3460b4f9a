"""The wire, sans-I/O: the same code in the server and the SDK. `spec/protocol.md` says it in prose."""
