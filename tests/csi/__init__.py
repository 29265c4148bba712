"""How the CSI services behave: the real driver, a real NAS, real mounts."""
