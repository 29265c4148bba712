"""What applications see, and what the NAS has in the end, when a daemon dies at the worst moment."""
