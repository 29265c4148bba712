"""Drops the node plugin's privileges: what is left allows this process nothing that an ordinary one may not do.

Its container has to be privileged, or Kubernetes would not propagate its bind mounts to the node. So it drops all
capabilities (capabilities(7)) that ``efc-mount-helper`` does not need. The others stay *permitted*, so that its
children get them, but none is *effective* in this process. The bounding set and ``no_new_privs`` guarantee that neither
this process nor a child can ever gain more. It runs as root, to which its files and kubelet's directories belong.
"""

import ctypes
import os

from csi.base.errors import Code, DriverError

#: Capabilities, from <linux/capability.h>.
_CAP_DAC_READ_SEARCH, _CAP_SETPCAP, _CAP_SYS_CHROOT, _CAP_SYS_PTRACE, _CAP_SYS_ADMIN = 2, 8, 18, 19, 21
_CAPABILITY_VERSION_3 = 0x20080522
#: Options of prctl(2), from <linux/prctl.h>.
_PR_CAPBSET_READ, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 23, 24, 38
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
#: Capabilities that efc-mount-helper needs; CAP_SETPCAP, to give up the rest in its turn.
_FOR_CHILDREN = (_CAP_DAC_READ_SEARCH, _CAP_SETPCAP, _CAP_SYS_CHROOT, _CAP_SYS_PTRACE, _CAP_SYS_ADMIN)


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Sets(ctypes.Structure):
    """32 bits of each set of capabilities; the kernel takes two of these."""

    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


def drop_unneeded() -> None:
    """Gives up all but those capabilities, for this thread and those that it starts; does nothing without privileges.

    Raises INTERNAL if the kernel refuses.
    """
    if os.geteuid() != 0:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header = _Header(version=_CAPABILITY_VERSION_3)
    sets = (_Sets * 2)()
    _check(libc.capget(ctypes.byref(header), sets), "capget")
    if sets[0].effective & (1 << _CAP_SETPCAP):
        _shrink_bounding_set(libc)
    _check(libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl(PR_SET_NO_NEW_PRIVS)")
    _check(libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0), "prctl(PR_CAP_AMBIENT)")
    kept = sum(1 << capability for capability in _FOR_CHILDREN)
    sets[0].effective, sets[0].permitted, sets[0].inheritable = 0, sets[0].permitted & kept, 0
    sets[1].effective, sets[1].permitted, sets[1].inheritable = 0, 0, 0
    _check(libc.capset(ctypes.byref(header), sets), "capset")


def _shrink_bounding_set(libc: ctypes.CDLL) -> None:
    capability = 0
    # The first capability that the kernel does not know ends the list.
    while (present := libc.prctl(_PR_CAPBSET_READ, capability, 0, 0, 0)) >= 0:
        if present and capability not in _FOR_CHILDREN:
            _check(libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0), "prctl(PR_CAPBSET_DROP)")
        capability += 1


def _check(result: int, call: str) -> None:
    if result != 0:
        raise DriverError(Code.INTERNAL, f"cannot drop privileges: {call}: {os.strerror(ctypes.get_errno())}")
