"""Errors, typed inside, and the gRPC status that each becomes, in one place.

Every expected failure is a :class:`DriverError` with one :class:`Code`; the names are gRPC's, so the edge
(:mod:`csi.rpc.server`) and the command line translate by name. What each code means here:

=====================  ============================================================================================
INVALID_ARGUMENT       the request, a parameter or an option is wrong; trying again unchanged cannot help
NOT_FOUND              the volume, its directory, the NAS's host or the export does not exist
ALREADY_EXISTS         the name, path or target is taken by something that is not compatible
FAILED_PRECONDITION    the object is there but in a state that forbids this; the message says what to change
PERMISSION_DENIED      the NAS refuses this client, or is read-only; a source that is not allowed inline
UNAVAILABLE            the NAS, the keeper or a daemon does not answer (yet): try again
DEADLINE_EXCEEDED      it took longer than its limit and was stopped
RESOURCE_EXHAUSTED     the NAS is full, or this node is at a limit
OUT_OF_RANGE           a capacity that cannot be provided
ABORTED                another call for the same object is in progress, or a paging token is invalid
UNIMPLEMENTED          not supported
INTERNAL               a bug, or an answer that makes no sense
=====================  ============================================================================================

A message is one sentence for people: it names the object, what was expected, and how to fix it.
"""

import enum
import json
from typing import Self


class Code(enum.Enum):
    """The gRPC status codes that the driver uses, by their gRPC names."""

    INVALID_ARGUMENT = "INVALID_ARGUMENT"
    NOT_FOUND = "NOT_FOUND"
    ALREADY_EXISTS = "ALREADY_EXISTS"
    FAILED_PRECONDITION = "FAILED_PRECONDITION"
    PERMISSION_DENIED = "PERMISSION_DENIED"
    UNAVAILABLE = "UNAVAILABLE"
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
    RESOURCE_EXHAUSTED = "RESOURCE_EXHAUSTED"
    OUT_OF_RANGE = "OUT_OF_RANGE"
    ABORTED = "ABORTED"
    UNIMPLEMENTED = "UNIMPLEMENTED"
    INTERNAL = "INTERNAL"


class DriverError(Exception):
    """An expected failure: a code, and one sentence for a person."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message

    @classmethod
    def from_wire(cls, code_name: str, message: str) -> Self:
        """The error that a program of ours reported under the name of an ``efc.v1.Error.Code``."""
        code = Code.__members__.get(code_name, Code.INTERNAL)
        return cls(code, message or f"a program reported {code_name or 'an error'} without a message")


def invalid(message: str) -> DriverError:
    """The error INVALID_ARGUMENT, the commonest of all, with this message."""
    return DriverError(Code.INVALID_ARGUMENT, message)


_CODE_OF_ERRNO = {
    "ENOENT": Code.NOT_FOUND,
    "ENOTDIR": Code.FAILED_PRECONDITION,
    "ELOOP": Code.FAILED_PRECONDITION,
    "EXDEV": Code.FAILED_PRECONDITION,
    "EBUSY": Code.FAILED_PRECONDITION,
    "ENOTEMPTY": Code.FAILED_PRECONDITION,
    "EEXIST": Code.ALREADY_EXISTS,
    "EACCES": Code.PERMISSION_DENIED,
    "EPERM": Code.PERMISSION_DENIED,
    "EROFS": Code.PERMISSION_DENIED,
    "EINVAL": Code.INVALID_ARGUMENT,
    "ENAMETOOLONG": Code.INVALID_ARGUMENT,
    "ENOTCONN": Code.UNAVAILABLE,
    "ESTALE": Code.UNAVAILABLE,
    "EIO": Code.UNAVAILABLE,
    "ETIMEDOUT": Code.UNAVAILABLE,
    "EAGAIN": Code.UNAVAILABLE,
    "ENOSPC": Code.RESOURCE_EXHAUSTED,
    "EDQUOT": Code.RESOURCE_EXHAUSTED,
    "ENOMEM": Code.RESOURCE_EXHAUSTED,
    "EMFILE": Code.RESOURCE_EXHAUSTED,
    "ENFILE": Code.RESOURCE_EXHAUSTED,
}


def from_child(*, program: str, exit_status: int, stderr: bytes) -> DriverError:
    """The error in the last line of a short-lived program's stderr: ``{"code":..,"errno":..,"message":..}``.

    ``code`` (efc-fs) wins over ``errno`` (efc-mount-helper). Anything else, a crash for example, is INTERNAL.
    """
    lines = stderr.decode(errors="replace").strip().splitlines()
    try:
        report = json.loads(lines[-1]) if lines else None
    except (ValueError, RecursionError):
        report = None
    if not isinstance(report, dict):
        ended = f"was ended by signal {-exit_status}" if exit_status < 0 else f"exited with status {exit_status}"
        return DriverError(Code.INTERNAL, f"{program} {ended}: {lines[-1][:500] if lines else 'it said nothing'}")
    message = str(report.get("message", ""))
    if "code" in report:
        return DriverError.from_wire(str(report["code"]), message)
    errno_name = str(report.get("errno", ""))
    return DriverError(_CODE_OF_ERRNO.get(errno_name, Code.INTERNAL), message or f"{program}: {errno_name}")
