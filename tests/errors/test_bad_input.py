"""Every kind of bad input, given to `efc mount`, NodePublishVolume and CreateVolume.

Each is answered within a bound of time with one line that names what is wrong and with the right code, and leaves
no process, no mount and no directory. The command line is used without a running keeper: the one that it starts must
end again.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from csi._proto import csi_pb2
from tests.support.driver import Driver, capability, inline_volume, refused, static_volume
from tests.support.environment import clean_environment
from tests.support.mounts import mounts_below, small_disk
from tests.support.nas import Export, Nas, free_ports
from tests.support.paths import program
from tests.support.processes import processes, wait_until

INVALID, NOT_FOUND = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
DENIED, UNAVAILABLE = grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAVAILABLE
PRECONDITION, EXHAUSTED = grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.RESOURCE_EXHAUSTED
DEADLINE = grpc.StatusCode.DEADLINE_EXCEEDED
QUICK_S, HUNG_S = 40.0, 60.0  # the driver's own limits are 10 s and 20 s
OURS = ("efc", "efcd", "efc-keeper", "efc-fs", "efc-mount-helper")


@dataclass(frozen=True, kw_only=True)
class Case:
    """`source` has {nas}, {ports} and so on filled in; the message must hold `names`; `codes` are those allowed."""

    source: str
    names: str
    codes: tuple[grpc.StatusCode, ...]
    options: tuple[str, ...] = ()


CASES = {
    "unknown host": Case(source="nfs://no-such.invalid/export", names="no-such", codes=(NOT_FOUND, UNAVAILABLE)),
    "dead port": Case(source="nfs://127.0.0.1:{dead}/export?mountport={dead}", names="127.0.0.1", codes=(UNAVAILABLE,)),
    "dead NFS port": Case(source="nfs://127.0.0.1:{dead}/export{mount}", names="127.0.0.1", codes=(UNAVAILABLE,)),
    "not an NFS server": Case(source="{swapped}", names="127.0.0.1", codes=(UNAVAILABLE, PRECONDITION)),
    "unknown export": Case(source="{server}/no-such-export{mount}", names="no-such-export",
                           codes=(NOT_FOUND, DENIED)),
    "refused export": Case(source="{server}/refused{mount}", names="refused", codes=(DENIED,)),
    "missing directory": Case(source="{server}/export/no/such{mount}", names="no", codes=(NOT_FOUND,)),
    "path is a file": Case(source="{server}/export/file{mount}", names="file", codes=(PRECONDITION,)),
    "path below a file": Case(source="{server}/export/file/x{mount}", names="file",
                              codes=(PRECONDITION, NOT_FOUND)),
    "wrong scheme": Case(source="smb://127.0.0.1/export", names="smb", codes=(INVALID,)),
    "no scheme": Case(source="127.0.0.1:/export", names="127.0.0.1:/export", codes=(INVALID,)),
    "no path": Case(source="nfs://127.0.0.1", names="nfs://127.0.0.1", codes=(INVALID,)),
    "absurd port": Case(source="nfs://127.0.0.1:99999/export", names="99999", codes=(INVALID,)),
    "unknown option": Case(source="{nas}", options=("conections=4",), names="connections", codes=(INVALID,)),
    "absurd value": Case(source="{nas}", options=("connections=1000000",), names="1000000", codes=(INVALID,)),
    "absurd unit": Case(source="{nas}", options=("read-ahead=8lightyears",), names="8lightyears", codes=(INVALID,)),
    "contradiction": Case(source="{nas}", options=("ro", "rw"), names="rw", codes=(INVALID,)),
}  # fmt: skip


@pytest.fixture(scope="module")
def servers(nothing_left: None) -> Iterator[Nas]:  # ends before the check
    exports = (Export(), Export(name="refused", access="None"), Export(name="frozen", access="RO"))
    with Nas(exports=exports) as nas:
        (nas.export_folder() / "file").write_text("content")
        yield nas


@pytest.fixture(scope="module")
def driver(servers: Nas) -> Iterator[Driver]:
    with Driver(source=servers.url) as running:
        yield running


def filled(case: Case, nas: Nas) -> str:
    (dead,) = free_ports("127.0.0.1", count=1)
    return case.source.format(
        nas=nas.url, server=f"nfs://127.0.0.1:{nas.port}", mount=f"?mountport={nas.mount_port}", dead=dead,
        swapped=f"nfs://127.0.0.1:{nas.mount_port}/export?mountport={nas.port}",
    )  # fmt: skip


@contextmanager
def nothing_of_ours_left(driver: Driver) -> Iterator[None]:
    def present() -> set[str]:
        return {
            f"{process.pid} {process.command}"
            for process in processes()
            if process.name in OURS and process.state != "Z"
        } | {str(mount.target) for mount in mounts_below(driver.folder)}

    wait_until(lambda: not driver.daemons(), what="earlier daemons to end")
    before = present()
    yield
    wait_until(lambda: present() <= before, what=f"{present() - before} to be gone", limit_s=20)
    assert not [path for path in driver.kubelet_root.rglob("mount") if path.is_dir()]


@pytest.mark.parametrize("name", CASES)
def test_mount_command(driver: Driver, servers: Nas, tmp_path: Path, name: str) -> None:
    case = CASES[name]
    with nothing_of_ours_left(driver):
        message = failing_mount(filled(case, servers), tmp_path, options=case.options)
    assert case.names in message


@pytest.mark.parametrize("name", CASES)
def test_node_publish(driver: Driver, servers: Nas, name: str) -> None:
    case = CASES[name]
    with nothing_of_ours_left(driver), refused(*case.codes, limit_s=QUICK_S) as message:
        driver.publish(static_volume("bad-input", filled(case, servers)), driver.target(), mount_flags=case.options)
    assert case.names in message[0]


@pytest.mark.parametrize("name", CASES)
def test_controller_of_a_bad_source(driver: Driver, servers: Nas, name: str) -> None:
    """A source that cannot be parsed ends the controller at its start, with one line; others end CreateVolume."""
    case = CASES[name]
    source = filled(case, servers)
    if case.options:
        before = sorted(servers.export_folder().rglob("*"))
        with refused(*case.codes) as message:
            driver.create(
                "bad-input",
                parameters=dict(option.split("=") if "=" in option else (option, "") for option in case.options),
            )
        assert sorted(servers.export_folder().rglob("*")) == before
        assert case.names in message[0]
        return
    with ExitStack() as stack:
        other = Driver(source=source)
        try:
            stack.enter_context(other)
        except RuntimeError as error:
            assert INVALID in case.codes, error
            assert case.names in str(error)
            assert "Traceback" not in str(error)
            return
        assert INVALID not in case.codes
        with refused(*case.codes, limit_s=QUICK_S + 8) as message:
            other.create("bad-input")
        assert case.names in message[0]


def failing_mount(source: str, folder: Path, *, options: tuple[str, ...] = (), limit_s: float = QUICK_S) -> str:
    """Runs `efc mount`, which must fail with one line. Returns it."""
    target, run_dir = folder / "target", folder / "run"
    target.mkdir()
    environment = clean_environment(RUN_DIR=str(run_dir))
    arguments = [argument for option in options for argument in ("-o", option)]
    started = time.monotonic()
    done = subprocess.run(
        [program("efc"), "mount", source, target, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=HUNG_S,
    )
    duration_s = time.monotonic() - started
    assert done.returncode == 1, f"status {done.returncode}: {done.stdout}{done.stderr}"
    assert done.stdout == ""
    assert done.stderr.startswith("efc: ")
    assert done.stderr.count("\n") == 1, f"not one line: {done.stderr!r}"
    assert duration_s < limit_s, f"it took {duration_s:.1f} s: {done.stderr}"
    assert mounts_below(folder) == []
    assert list(target.iterdir()) == []
    return done.stderr


def test_mount_command_with_a_bad_target(driver: Driver, servers: Nas, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for target, words in ((tmp_path / "missing", "mkdir"), (tmp_path / "file", "not a directory")):
        with nothing_of_ours_left(driver):
            done = subprocess.run(
                [program("efc"), "mount", servers.url, target], capture_output=True, text=True, timeout=QUICK_S
            )
        assert done.returncode == 1
        assert words in done.stderr
        assert done.stderr.count("\n") == 1


def test_mount_command_at_a_name_that_is_not_utf8(driver: Driver, servers: Nas, tmp_path: Path) -> None:
    target = bytes(tmp_path) + b"/caf\xe9"
    os.mkdir(target)
    with nothing_of_ours_left(driver):
        for command in (["mount", servers.url], ["umount"]):
            done = subprocess.run([program("efc"), *command, target], capture_output=True, text=True, timeout=QUICK_S)
            assert done.returncode == 1
            assert "is not UTF-8" in done.stderr
            assert done.stderr.count("\n") == 1


def test_mount_command_at_a_link_to_a_directory(driver: Driver, servers: Nas, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    environment = dict(os.environ, RUN_DIR=str(tmp_path / "run"))
    with nothing_of_ours_left(driver):
        for command in (["mount", servers.url], ["mount", servers.url], ["umount"]):
            subprocess.run([program("efc"), *command, tmp_path / "link"], env=environment, timeout=QUICK_S, check=True)
            assert os.path.ismount(tmp_path / "real") is (command[0] == "mount")


def test_unmount_of_what_is_not_mounted(tmp_path: Path) -> None:
    done = subprocess.run([program("efc"), "umount", tmp_path], capture_output=True, text=True, timeout=QUICK_S)
    assert done.stderr.count("\n") <= 1
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("case", ["namespace", "source", "damaged list", "missing list", "nobody's"])
def test_inline_volume_that_is_not_allowed(driver: Driver, servers: Nas, case: str) -> None:
    """The message says which namespace and source, and what to add where; or what is wrong with the list."""
    namespace = "beta" if case == "namespace" else "alpha"
    listed = servers.url_of("frozen") if case == "source" else servers.url
    volume = inline_volume(servers.url, namespace=namespace)
    driver.allow([{"namespaces": ["alpha"], "sources": [listed]}])
    to_add = json.dumps({"namespaces": [namespace], "sources": [servers.url]})
    code, words = DENIED, [repr(namespace), to_add, "inline.allowedSources"]
    if case.endswith("list"):
        code, words = PRECONDITION, [str(driver.allowed_sources)]
        driver.allowed_sources.unlink()
        if case == "damaged list":
            driver.allowed_sources.write_text("[{]")
    elif case == "nobody's":
        code, words = PRECONDITION, ["podInfoOnMount"]
        del volume.volume_context["csi.storage.k8s.io/pod.namespace"]
    with nothing_of_ours_left(driver), refused(code, limit_s=QUICK_S) as message:
        driver.publish(volume, driver.target())
    for word in words:
        assert word in message[0]


@pytest.mark.timeout(180)
def test_hung_server(tmp_path: Path) -> None:
    def mount() -> None:
        message = failing_mount(nas.url, tmp_path, limit_s=HUNG_S)
        assert "127.0.0.1" in message
        assert "DNS" not in message, "the address needs no name server: what hangs is the NAS"

    def publish() -> None:
        with refused(UNAVAILABLE, DEADLINE, limit_s=HUNG_S):
            driver.publish(static_volume("hung", nas.url), driver.target())

    def create() -> None:
        with refused(UNAVAILABLE, DEADLINE, limit_s=HUNG_S):
            driver.create("hung")

    with Nas() as nas, Driver(source=nas.url) as driver, ThreadPoolExecutor() as pool:
        nas.pause()
        with nothing_of_ours_left(driver):
            for outcome in [pool.submit(call) for call in (mount, publish, create)]:
                outcome.result()


def test_read_only_export(driver: Driver, servers: Nas) -> None:
    """It can be mounted and read; a volume cannot be made on it, and a write says why."""
    source = servers.url_of("frozen")
    (servers.export_folder("frozen") / "file").write_text("content")
    volume, target = static_volume("frozen", source), driver.target()
    driver.publish(volume, target)
    try:
        assert (target / "file").read_text() == "content"
        with pytest.raises(OSError, match="Read-only file system"):
            (target / "new").write_text("")
    finally:
        driver.unpublish(volume, target)
    with Driver(source=source) as other, refused(PRECONDITION, DENIED) as message:
        other.create("frozen")
    assert "read-only" in message[0].lower()
    assert list(servers.export_folder("frozen").iterdir()) == [servers.export_folder("frozen") / "file"]


def test_full_server(tmp_path: Path) -> None:
    """No space: CreateVolume says so; a write gets ENOSPC, at the latest from fsync; nothing half made stays."""
    with (
        small_disk(tmp_path / "disk", size_mib=8) as disk,
        Nas(exports=(Export(path=disk),)) as nas,
        Driver(source=nas.url) as driver,
    ):
        volume, unused = driver.create("first"), driver.create("unused")
        target = driver.target()
        driver.publish(volume, target)
        try:
            with (
                pytest.raises(OSError, match="No space left on device"),
                (target / "big").open("wb", buffering=0) as file,
            ):
                for _ in range(32):
                    file.write(b"x" * (1 << 20))
                os.fsync(file.fileno())
            (target / "big").unlink(missing_ok=True)
            _fill(disk)
            with refused(EXHAUSTED) as message:
                driver.create("second")
            for word in ("full", "enlarge", nas.url):
                assert word in message[0]
            driver.delete(unused.volume_id)  # the first ever there
            (disk / "filler").unlink()
            for path in disk.glob("filler-*"):
                path.unlink()
            second = driver.create("second")
            driver.delete(second.volume_id)
        finally:
            driver.unpublish(volume, target)
        driver.delete(volume.volume_id)


def _fill(disk: Path) -> None:
    """All blocks and all inodes."""
    with (disk / "filler").open("wb", buffering=0) as file:
        block = 1 << 20
        while block >= 512:
            try:
                if file.write(b"x" * block) < block:
                    block //= 2
            except OSError:
                block //= 2
        os.fsync(file.fileno())
    number = 0
    try:
        while True:
            (disk / f"filler-{number}").touch()
            number += 1
    except OSError:
        return


def test_capacity_that_cannot_be(driver: Driver) -> None:
    """A limit below what is required, and negative sizes, are the caller's mistake."""
    for required, limit in ((2 << 30, 1 << 30), (-1, 0), (0, -1)):
        request = csi_pb2.CreateVolumeRequest(
            name="capacity", volume_capabilities=[capability()],
            capacity_range=csi_pb2.CapacityRange(required_bytes=required, limit_bytes=limit),
        )  # fmt: skip
        with refused(INVALID, grpc.StatusCode.OUT_OF_RANGE):
            driver.call("controller", "CreateVolume", request)


def test_what_is_not_a_file_system_is_refused(driver: Driver, servers: Nas) -> None:
    """Block volumes, foreign file systems and unknown access modes."""
    mode = csi_pb2.VolumeCapability.AccessMode(mode=csi_pb2.VolumeCapability.AccessMode.SINGLE_NODE_WRITER)
    block = csi_pb2.VolumeCapability(block=csi_pb2.VolumeCapability.BlockVolume(), access_mode=mode)
    foreign = csi_pb2.VolumeCapability(mount=csi_pb2.VolumeCapability.MountVolume(fs_type="ext4"), access_mode=mode)
    unknown = csi_pb2.VolumeCapability(mount=csi_pb2.VolumeCapability.MountVolume())
    for wrong in (block, foreign, unknown):
        with refused(INVALID):
            driver.create("wrong", volume_capabilities=[wrong])
        with refused(INVALID):
            driver.publish(static_volume("wrong", servers.url), driver.target(), volume_capability=wrong)
