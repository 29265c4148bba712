"""Utilities that every other package of :mod:`csi` may import, and that import none of them.

Errors and their codes, the names of the driver and of its programs, child processes, locks by key, saved JSON, and
printable text for one line.
"""
