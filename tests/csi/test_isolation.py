"""Two tenants' daemons, and what one that was taken over by an attacker could do to the other: nothing.

The attacker is a process with a daemon's user, group and capabilities; it is given more than it would have, a shell and
Python, and tries what a compromised daemon might.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.driver import Driver, static_volume
from tests.support.nas import Nas
from tests.support.processes import wait_until

_FIRST_UID, _LAST_UID = 2147400000, 2147400063

#: Tries everything at the process in argv[1] and prints what succeeded.
_ATTACK = """
import ctypes, os, signal, sys
pid = int(sys.argv[1])
libc = ctypes.CDLL(None, use_errno=True)

class Vector(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]

def read_memory():
    buffer = ctypes.create_string_buffer(8)
    local, remote = Vector(ctypes.addressof(buffer), 8), Vector(0x400000, 8)
    read = libc.process_vm_readv(pid, ctypes.byref(local), 1, ctypes.byref(remote), 1, 0)
    return read >= 0 or ctypes.get_errno() == 14  # EFAULT: nothing is there, but it might be read

def take_descriptor():
    return libc.syscall(438, os.pidfd_open(pid), 1, 0) >= 0

attempts = {
    "trace": lambda: libc.ptrace(16, pid, 0, 0) == 0,
    "read its memory": read_memory,
    "take a descriptor": take_descriptor,
    "signal": lambda: os.kill(pid, 0) is None,
    "change its limits": lambda: __import__("resource").prlimit(pid, 7, (64, 64)) is not None,
    "environ": lambda: open(f"/proc/{pid}/environ").read() is not None,
    "mem": lambda: open(f"/proc/{pid}/mem", "rb") is not None,
    "maps": lambda: open(f"/proc/{pid}/maps").read() is not None,
    "fd": lambda: os.listdir(f"/proc/{pid}/fd") is not None,
    "open fd": lambda: os.open(f"/proc/{pid}/fd/1", os.O_RDONLY) >= 0,
    "cwd": lambda: os.listdir(f"/proc/{pid}/cwd") is not None,
    "root": lambda: os.listdir(f"/proc/{pid}/root") is not None,
    "exe": lambda: os.readlink(f"/proc/{pid}/exe") is not None,
    "ns": lambda: os.open(f"/proc/{pid}/ns/net", os.O_RDONLY) >= 0,
    "oom score": lambda: open(f"/proc/{pid}/oom_score_adj", "w").write("1000") > 0,
}
for name, attempt in attempts.items():
    try:
        if attempt():
            print(name)
    except OSError:
        pass
"""


@pytest.fixture
def tenants(nas: Nas) -> Iterator[Driver]:
    with Driver(source=nas.url, keeper_options=[f"--daemon-uids={_FIRST_UID}-{_LAST_UID}"]) as driver:
        yield driver


def user_of(pid: int) -> int:
    """The one user of a process, which must be its group too, and have no other group."""
    status = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line
    )
    (user,) = set(status["Uid"].split())
    assert set(status["Gid"].split()) == {user}
    assert status["Groups"].split() == []
    assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == (1 << 10) | (1 << 14)
    assert status["NoNewPrivs"] == "1"
    return int(user)


def attack(target: int, *, user: int) -> list[str]:
    """What a process of `user` with a daemon's capabilities can do to the process `target`."""
    command = ["setpriv", "--bounding-set=-all,+net_bind_service,+ipc_lock", "--no-new-privs", f"--reuid={user}",
               f"--regid={user}", "--clear-groups", "--inh-caps=+net_bind_service,+ipc_lock",
               "--ambient-caps=+net_bind_service,+ipc_lock", sys.executable, "-c", _ATTACK, str(target)]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd="/")
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def published(driver: Driver, nas: Nas, **options: str) -> tuple[int, Path]:
    """A volume with a daemon of its own: the daemon's pid, and where it is."""
    known = {daemon.pid for daemon in driver.daemons()}
    target = driver.target()
    driver.publish(static_volume(f"v-{uuid.uuid4()}", nas.url, **options), target)
    (daemon,) = {daemon.pid for daemon in driver.daemons()} - known
    return daemon, target


def test_daemons_of_two_tenants_are_strangers(tenants: Driver, nas: Nas) -> None:
    first, _ = published(tenants, nas, **{"attr-ttl": "2s"})
    second, _ = published(tenants, nas, **{"attr-ttl": "3s"})
    users = user_of(first), user_of(second)
    assert len(set(users)) == 2
    assert all(_FIRST_UID <= user <= _LAST_UID for user in users)
    assert attack(second, user=users[0]) == []
    assert attack(first, user=users[1]) == []
    # A stranger with the same user could end or starve it, and not look into it: it is not dumpable.
    assert attack(first, user=users[0]) == ["signal", "change its limits"]
    assert attack(tenants.pid("keeper"), user=users[0]) == []
    assert attack(tenants.pid("node"), user=users[0]) == []


def test_the_attacks_are_attacks() -> None:
    """At an ordinary process of the same user each of them succeeds."""
    user = str(_FIRST_UID)
    command = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "sleep", "60"]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as victim:
        wait_until(lambda: Path(f"/proc/{victim.pid}/comm").read_text() == "sleep\n", what="the victim")
        try:
            done = attack(victim.pid, user=_FIRST_UID)
        finally:
            victim.kill()
    assert len(done) == _ATTACK.count('    "'), done


def test_a_successor_has_its_predecessors_user(tenants: Driver, nas: Nas) -> None:
    daemon, target = published(tenants, nas)
    user = user_of(daemon)
    os.kill(daemon, signal.SIGKILL)
    wait_until(lambda: [found.pid for found in tenants.daemons()] not in ([], [daemon]), what="the successor")
    (target / "file").write_text("works")
    (successor,) = tenants.daemons()
    assert user_of(successor.pid) == user


def test_a_new_keeper_gives_no_survivors_user_away(nas: Nas) -> None:
    """The range has two users; one is a survivor's of a killed keeper."""
    with Driver(source=nas.url, keeper_options=["--daemon-uids=2147400100-2147400101"]) as driver:
        survivor, _ = published(driver, nas, **{"attr-ttl": "2s"})
        driver.crash("keeper")
        newcomer, _ = published(driver, nas, **{"attr-ttl": "3s"})
        assert user_of(survivor) != user_of(newcomer)
