"""Reading data once so that it lies in a dataset's caches: what to read, in which order and pieces, and what was read.

For `efc warmup`. It knows directories and files, no mounts and no keeper: whoever uses it has looked where they lie.
"""
