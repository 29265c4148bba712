"""The quick start: a NAS directory becomes a volume, and everything that is promised about it is shown.

`make quickstart` runs it. Without `SOURCE` it makes a NAS of its own: a real nfs-ganesha over 10,000 files and one of
2 GiB. With `SOURCE=nfs://host/dir` it reads that directory, and writes only into a volume of its own there, which it
deletes again.
"""
