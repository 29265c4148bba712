"""What can be tested without a NAS and without mounts."""
