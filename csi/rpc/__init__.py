"""The gRPC side of both CSI services: the server and its request log, size limits of requests, the Identity service."""
