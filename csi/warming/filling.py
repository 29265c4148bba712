"""Asks a daemon to fill one level of its caches with a block of a file, and no other level.

The file is opened with flags that tell the daemon not to read it yet, and then an ioctl(2) asks for one block after the
other (efc/daemon/src/filesystem/warming/request.rs). Each request is self-contained, so a daemon that replaces another
one half way can answer it. No data comes here, and none goes into the node's page cache.
"""

import errno
import fcntl
import os
import struct
from dataclasses import dataclass
from enum import IntEnum

from csi.base.errors import Code, DriverError

#: Flags of an open for this.
OPEN_FLAGS = os.O_DIRECT | os.O_SYNC
#: Offset, level, outcome and length, as the daemon has them.
_REQUEST = struct.Struct("=QIIQ")
#: _IOWR(0xef, 1, _REQUEST)
_COMMAND = 3 << 30 | _REQUEST.size << 16 | 0xEF << 8 | 1
_WAS_THERE, _GIVEN, _UNRESTED = 1, 2, 4
#: Of a block whose length nobody has looked up.
_LENGTH_MAX = 1 << 63
#: What a daemon says that knows nothing of this: as it does, and as the kernel puts it.
_UNKNOWN = (errno.ENOSYS, errno.ENOTTY)


class Level(IntEnum):
    """A level of caches, by its number in a question."""

    LOCAL = 1
    WORKERS = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Filled:
    """What has come of a block: its bytes, 0 behind the end of the file, and whether the level had it before.

    ``is_refused``: it had not, and was not given it. ``rests``: the daemon does not take the file for one that may have
    changed lately, of which no cache takes anything.
    """

    length: int
    was_there: bool
    is_refused: bool = False
    rests: bool = True


def fill(descriptor: int, offset: int, level: Level) -> Filled:
    """Fills a level with the block that has this byte of a file, waiting for the NAS if need be.

    A level that the daemon has not got, or no more, is one that refuses. Raises OSError as reading does; and
    UNIMPLEMENTED if the daemon cannot do this.
    """
    request = bytearray(_REQUEST.pack(offset, level, 0, 0))
    try:
        fcntl.ioctl(descriptor, _COMMAND, request)
    except OSError as error:
        if error.errno in _UNKNOWN:
            message = "the mount's daemon is of a release that cannot fill a single level (efc upgrade replaces it)"
            raise DriverError(Code.UNIMPLEMENTED, message) from None
        if error.errno == errno.EOPNOTSUPP:
            return Filled(length=_LENGTH_MAX, was_there=False, is_refused=True)
        raise
    _, _, outcome, length = _REQUEST.unpack(request)
    return Filled(
        length=length,
        was_there=outcome == _WAS_THERE,
        is_refused=outcome not in (_WAS_THERE, _GIVEN),
        rests=outcome != _UNRESTED,
    )
