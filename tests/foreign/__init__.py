"""Programs that others wrote, on ext4, on the mount, and on the mount while its daemon is killed each second.

`make foreign`, or `make foreign ONLY=sqlite`; no part of `make test`. Each test runs a program that checks its own
work: what it finds wrong on the mount and not on ext4 is a fault, unless `expected.toml` has the deviation and its
reason.
"""
