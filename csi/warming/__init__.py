"""Cache warm-up, for ``efc warmup``: which data to read, in which order and pieces, and what has been read.

It knows directories and files, but neither mounts nor the keeper: its caller has found out which mount they are on.
"""
