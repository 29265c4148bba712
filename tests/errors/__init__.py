"""Bad input: each kind gives one clear error through the command line and through gRPC, and leaves nothing behind."""
