"""What memcached needs as a worker: how its memory is divided, and how much of it there must be.

For `efc worker`, which starts it, and for whoever says how large its container is. Measured with memcached 1.6.18 by
TLS, filled by `efc worker --memory`'s settings with values of 1 MiB, then of 16 KiB, then of 1 MiB again (resident
memory, `VmRSS`): with 256 MiB for values it has 265 MiB, with 2048 MiB 2065 MiB; for each connection 60 KiB more when
the other side has asked for eight blocks and reads none. With a file it has 16 to 40 MiB more: buffers in which its
pages are written.
"""

from collections.abc import Mapping

MIB = 1 << 20
#: Least memory for values.
MEMORY_MIB_MIN = 64
#: Smallest file: memcached needs a few pages.
DISK_MIB_MIN = 64
#: Bytes of values for each header of a value of several chunks that memory is set aside for: two chunks.
BYTES_PER_HEADER = 32 << 10
#: Bytes of a file for each value in it of which memcached keeps name and place in memory, in 120 bytes. With smaller
#: values on the average the file is not filled.
BYTES_PER_PLACE = 64 << 10
_MIB_PER_PLACES_MIB = 512
#: Beside values: connections' buffers, the hash table, threads, sockets.
_OVERHEAD_MIB = 64
#: And for files.
_DISK_OVERHEAD_MIB = 96


def held_bytes(stats: Mapping[str, str]) -> int:
    """Bytes of the items that a worker holds, by memcached's ``stats``; KeyError or ValueError if they do not say.

    memcached counts a value that was dropped from a file until somebody asks for it, so with files the sum of what lies
    in them and of all memory for items is the most. (Measured: of 1,064 MiB it is 1,069.)
    """
    held = int(stats["bytes"])
    if "extstore_bytes_used" not in stats:
        return held
    return min(held, int(stats["extstore_bytes_used"]) + int(stats["limit_maxbytes"]))


def item_memory_mib(memory_mib: int, disk_mib: int) -> int:
    """What memcached is given for items (-m): values, and the names and places of those in files."""
    return memory_mib + -(-disk_mib // _MIB_PER_PLACES_MIB)


def process_memory_mib(memory_mib: int, disk_mib: int) -> int:
    """What the whole process may come to. With 15 GiB that is enough for 6,000 connections, with 64 MiB for 900."""
    items = item_memory_mib(memory_mib, disk_mib)
    return items + items // 50 + _OVERHEAD_MIB + (_DISK_OVERHEAD_MIB if disk_mib else 0)
