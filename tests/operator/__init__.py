"""The operator as a process against a real API server with its controllers, and a real NAS."""
