"""More nodes and workers than any machine here has, played by the daemon's own policy."""
