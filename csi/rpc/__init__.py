"""The gRPC edge of both services: the server and its log, the limits of a request, the Identity service."""
