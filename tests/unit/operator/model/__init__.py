"""A cluster that is played, for the reconciler: an API server with its controllers, under a clock without hurry."""
