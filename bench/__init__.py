"""Side by side on one machine: native ext4, our bare NFS client reading into memory, and the mount.

`make bench`. Rounds are interleaved, so that a noisy neighbour hits all alike; what counts are medians, and gates are
on ratios and counts only. In every round the client is cold (no page of the file, and for small files no name);
the server's page cache is warm throughout, so that the disk is not what is measured.
"""
