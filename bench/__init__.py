"""Side by side on one machine: native ext4, our bare NFS client reading into memory, and the mount.

`make bench`. Rounds are interleaved, so that a noisy neighbour hits all alike; what counts are medians, and gates are
on ratios and counts only. Every round of the mount has a fresh mount (nothing cached on the client); the server's page
cache is warm throughout, so that the disk is not what is measured.
"""
