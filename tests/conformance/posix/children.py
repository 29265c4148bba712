"""Code that runs in a child process: as another user, in races, or where it may hang."""

from __future__ import annotations

import os
import pickle
import select
import signal
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from tests.support.processes import SLOWNESS

Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class User:
    """The credentials of a process."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()


class ChildError(AssertionError):
    """The child ended by a signal, hung, or raised something that is no OSError; the message has its traceback."""


def in_child(function: Callable[[], Result], *, user: User | None = None, limit_s: float = 30) -> Result:
    """Runs `function` in a forked child, as `user` if one is given, and returns its result.

    An OSError of the function is raised here too, with its errno. Raises ChildError for anything else.
    """
    return all_in_children([function], user=user, limit_s=limit_s)[0]


def all_in_children(
    functions: Sequence[Callable[[], Result]], *, user: User | None = None, limit_s: float = 30
) -> list[Result]:
    """Runs all functions at the same time, one child each; they start together. Otherwise as `in_child`."""
    gate_read, gate_write = os.pipe()
    children = [_start(function, user=user, gate=gate_read, keeper=gate_write) for function in functions]
    os.close(gate_read)
    os.close(gate_write)
    end = time.monotonic() + limit_s * SLOWNESS
    try:
        return [_result(pid, channel, end=end) for pid, channel in children]
    finally:
        for pid, channel in children:
            os.close(channel)
            _end(pid)


def _start(function: Callable[[], Result], *, user: User | None, gate: int, keeper: int) -> tuple[int, int]:
    channel_read, channel_write = os.pipe()
    pid = os.fork()
    if pid:
        os.close(channel_write)
        return pid, channel_read
    try:
        os.close(channel_read)
        os.close(keeper)
        os.read(gate, 1)
        if user is not None:
            os.setgroups(user.groups)
            os.setresgid(user.gid, user.gid, user.gid)
            os.setresuid(user.uid, user.uid, user.uid)
        message = pickle.dumps((function(), None, ""))
    except OSError as error:
        message = pickle.dumps((None, error, traceback.format_exc()))
    except BaseException:  # whatever it is, the parent reports it
        message = pickle.dumps((None, None, traceback.format_exc()))
    with os.fdopen(channel_write, "wb") as channel:
        channel.write(message)
    os._exit(0)


def _result(pid: int, channel: int, *, end: float) -> Result:
    message = b""
    while True:
        readable, _, _ = select.select([channel], [], [], max(0.0, end - time.monotonic()))
        if not readable:
            raise ChildError(f"child {pid} did not end in time; it waits in {_where(pid)}")
        part = os.read(channel, 1 << 20)
        if not part:
            break
        message += part
    if not message:
        raise ChildError(f"child {pid} ended without a result")
    result, error, trace = pickle.loads(message)
    if error is not None:
        raise error
    if trace:
        raise ChildError(trace)
    return result  # type: ignore[no-any-return]


def _where(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/stack") as stack:
            return stack.read()
    except OSError as error:
        return str(error)


def _end(pid: int, limit_s: float = 5) -> None:
    """Ends and reaps a child. One that not even SIGKILL ends stays: the session's leak check names it."""
    end = time.monotonic() + limit_s
    while os.waitpid(pid, os.WNOHANG) == (0, 0) and time.monotonic() < end:
        os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)
