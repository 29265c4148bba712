"""Integrity: no byte is lost or wrong while the NAS and the daemon are killed under real programs.

`INTEGRITY_SECONDS` is the time that the suite's load runs in all: 100 by default, hours for a soak. `INTEGRITY_SEED`
repeats a run's choice of moments (not the scheduling of processes).
"""
