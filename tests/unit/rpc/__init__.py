"""The gRPC edge: csi/rpc."""
