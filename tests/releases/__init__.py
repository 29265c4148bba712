"""The former release beside this one, on the same sessions: hot upgrades and downgrades between two real programs."""
