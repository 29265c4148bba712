"""What every other package of :mod:`csi` may use, and what itself uses none of them.

Errors and their codes, the names of the driver and of its programs, child processes, locks by key, saved JSON, and text
that one line can show.
"""
