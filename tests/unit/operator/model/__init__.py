"""A cluster that is played, for the reconciler: an API server with its controllers, under a clock that costs no time."""
