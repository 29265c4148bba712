"""The steps of the quick start, in the order in which they are shown."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import grpc

from csi._proto import csi_pb2
from examples.quickstart import content
from examples.quickstart.content import BIG_FILE_BYTES, MIB, Advance, Checksums
from examples.quickstart.interruption import PatientReader
from examples.quickstart.report import Report, StepError
from tests.support.driver import Driver, static_volume
from tests.support.nas import Nas
from tests.support.paths import program
from tests.support.processes import memory_bytes

READ_LIMIT_S = 240.0
CALL_LIMIT_S = 60.0
#: Of a NAS that is not ours, no more than this is read.
SOURCE_FILES_MAX, SOURCE_BYTES_MAX = 12_000, 4 << 30
SAMPLE_FILES = 20
#: Where the driver keeps its records in the directory in which volumes are made.
DRIVER_FOLDER = ".efc"
CLEAN_UP_LIMIT_S = 15.0


@dataclass(frozen=True, kw_only=True)
class Data:
    """What is on the NAS: the URL of its tree, the URL under which volumes are made, and what the tree holds."""

    tree_url: str
    volumes_url: str
    checksums: Checksums | None  # None: not known beforehand


@dataclass(frozen=True, kw_only=True)
class Pods:
    """A volume, and the two targets that stand for two pods."""

    volume: csi_pb2.Volume
    one: Path
    other: Path


def tell(report: Report, *, source: str) -> None:
    """The whole story. Raises StepError when it cannot go on."""
    with nas_with_data(report, source=source) as data:
        report.title("Starting keeper, node plugin and controller")
        with Driver(source=data.volumes_url) as driver:
            report.note(f"CSI sockets: {driver.socket('node')}, {driver.socket('controller')}")
            use_volumes(report, driver, data)
            check_idle(report, driver)


@contextmanager
def nas_with_data(report: Report, *, source: str) -> Iterator[Data]:
    """The user's NAS, or one of our own that is filled first."""
    if source:
        report.title(f"Using {source}")
        with driver_folder_removed(source):
            yield Data(tree_url=source, volumes_url=source, checksums=None)
        return
    report.title("A NAS of our own: nfs-ganesha over a new tree")
    with Nas() as nas:
        tree, volumes = nas.export_folder() / "tree", nas.export_folder() / "volumes"
        volumes.mkdir()
        with report.progress("writing the tree", content.tree_bytes()) as advance:
            checksums = report.in_thread(
                lambda: content.make_tree(tree, advance), limit_s=READ_LIMIT_S, what="writing the tree"
            )
        report.note(f"{len(checksums):,} files, one of them of {BIG_FILE_BYTES >> 30} GiB; NFS on port {nas.port}")
        yield Data(tree_url=nas.url_of("export/tree"), volumes_url=nas.url_of("export/volumes"), checksums=checksums)


@contextmanager
def driver_folder_removed(url: str) -> Iterator[None]:
    """Takes the driver's records off a NAS that is not ours, unless the driver had been used there before."""

    def exists() -> bool:
        return (
            subprocess.run([program("efc-fs"), "stat", url, DRIVER_FOLDER], capture_output=True, timeout=60).returncode
            == 0
        )

    before = exists()
    try:
        yield
    finally:
        if not before and exists():
            subprocess.run([program("efc-fs"), "rm", "--recursive", url, DRIVER_FOLDER], check=True, timeout=60)


def use_volumes(report: Report, driver: Driver, data: Data) -> None:
    """Publishes the tree and a volume made for the occasion, uses both, and takes them away."""
    report.title("Publishing")
    tree = static_volume("quickstart-tree", data.tree_url)
    with created_volume(driver) as created:
        report.note(f"CreateVolume made volume {created.volume.volume_id}")
        pods = [Pods(volume=tree, one=driver.target(), other=driver.target()), created]
        publish_both(report, driver, pods)
        checksums = read_tree(report, pods[0], data)
        write_and_read(report, created)
        kill_in_the_middle(report, driver, pods[0], checksums, known=data.checksums is not None)
        report.figures["daemon_rss_mib"] = round(max(memory_bytes(daemon.pid) for daemon in driver.daemons()) / MIB, 1)
        show_stats(report, driver, pods[0])
        take_away(report, driver, pods)


@contextmanager
def created_volume(driver: Driver) -> Iterator[Pods]:
    """A volume by CreateVolume. When the block fails, or is interrupted, the volume is deleted all the same."""
    volume = driver.create("pvc-quickstart", capacity_bytes=1 << 30)
    pods = Pods(volume=volume, one=driver.target(), other=driver.target())
    try:
        yield pods
    except BaseException:
        with suppress(grpc.RpcError):
            for target in (pods.one, pods.other):
                driver.unpublish(volume, target, limit_s=CLEAN_UP_LIMIT_S)
            driver.call(
                "controller",
                "DeleteVolume",
                csi_pb2.DeleteVolumeRequest(volume_id=volume.volume_id),
                limit_s=CLEAN_UP_LIMIT_S,
            )
        raise


def publish_both(report: Report, driver: Driver, pods: list[Pods]) -> None:
    """NodePublishVolume of each volume to its two targets."""
    publish_ms = [publish(driver, pod.volume, target) for pod in pods for target in (pod.one, pod.other)]
    report.note(
        "NodePublishVolume took "
        + ", ".join(f"{ms:.0f} ms" for ms in publish_ms)
        + " (a dataset's first one starts its daemon)"
    )
    report.figures |= {"publish_ms_first": round(publish_ms[0], 1), "publish_ms_second": round(publish_ms[1], 1)}
    mounts, daemons = len(driver.published()), len(driver.daemons())
    # Two datasets, unless both volumes are in the user's one directory.
    report.must_hold(f"{mounts} mounts, {daemons} daemons: one per dataset", mounts == 4 and daemons in (1, 2))


def publish(driver: Driver, volume: csi_pb2.Volume, target: Path) -> float:
    """NodePublishVolume; how long it took in milliseconds."""
    begin = time.monotonic()
    driver.publish(volume, target, limit_s=CALL_LIMIT_S)
    return (time.monotonic() - begin) * 1000


# ---------------------------------------------------------------- reading


def read_tree(report: Report, pods: Pods, data: Data) -> Checksums:
    """Everything through the first target, then through the other; all checksums must be right."""
    report.title("Reading everything through both targets")
    names = report.in_thread(lambda: names_to_read(pods.one, data), limit_s=READ_LIMIT_S, what="listing the tree")
    if data.checksums is not None:
        report.must_hold(f"all {len(names):,} files are listed", set(names) == set(data.checksums))
    sizes = report.in_thread(
        lambda: {name: (pods.one / name).stat().st_size for name in names},
        limit_s=READ_LIMIT_S,
        what="stat of every file",
    )
    names = within_budget(names, sizes)
    small = [name for name in names if sizes[name] < MIB]
    large = [name for name in names if sizes[name] >= MIB]
    found: list[Checksums] = []
    for place, target in (("first", pods.one), ("other", pods.other)):
        checksums: Checksums = {}
        for kind, some in (("small files", small), ("large files", large)):
            total = sum(sizes[name] for name in some)
            begin = time.monotonic()
            with report.progress(f"{kind}, {place} target", total) as advance:
                checksums |= report.in_thread(
                    reading(target, some, advance), limit_s=READ_LIMIT_S, what=f"reading {kind}"
                )
            note_speed(report, kind, place, count=len(some), total=total, seconds=time.monotonic() - begin)
        found.append(checksums)
    read_bytes = sum(sizes[name] for name in names)
    report.must_hold(
        f"{len(names):,} files, {read_bytes / 1e9:.2f} GB: the same through both targets", found[0] == found[1]
    )
    if data.checksums is not None:
        wrong = [name for name, checksum in found[0].items() if data.checksums.get(name) != checksum]
        report.must_hold("every checksum is that of what was written", not wrong, otherwise=", ".join(wrong[:5]))
    else:
        compare_sample(report, data.tree_url, small, found[0])
    return found[0]


def names_to_read(root: Path, data: Data) -> list[str]:
    """All files of our own tree; the first ones of a tree that is not ours."""
    names = content.file_names(root, count_max=None if data.checksums else SOURCE_FILES_MAX)
    return [name for name in names if not name.startswith(f"{DRIVER_FOLDER}/")]


def within_budget(names: list[str], sizes: dict[str, int]) -> list[str]:
    """As many of the files as `SOURCE_BYTES_MAX` allows, at least one."""
    chosen: list[str] = []
    total = 0
    for name in names:
        if not chosen or total + sizes[name] <= SOURCE_BYTES_MAX:
            chosen.append(name)
            total += sizes[name]
    if not chosen:
        raise StepError("there is no file to read in the source")
    return chosen


def reading(root: Path, names: list[str], advance: Advance) -> Callable[[], Checksums]:
    """An action that takes the checksums of files."""
    return lambda: {name: content.checksum(root / name, advance) for name in names}


def note_speed(report: Report, kind: str, place: str, *, count: int, total: int, seconds: float) -> None:
    """Remembers files/s of small files and MB/s of large ones, checksums included."""
    if kind == "small files":
        report.figures[f"small_files_per_s_{place}"] = round(count / seconds)
    elif count:
        report.figures[f"large_mb_per_s_{place}"] = round(total / seconds / 1e6)


def compare_sample(report: Report, url: str, names: list[str], checksums: Checksums) -> None:
    """Some files once more past the mount, with `efc-fs cat`."""
    sample = names[:: max(1, len(names) // SAMPLE_FILES)][:SAMPLE_FILES]
    wrong = []
    for name in sample:
        done = subprocess.run([program("efc-fs"), "cat", url, name], capture_output=True, timeout=60, check=True)
        if hashlib.sha256(done.stdout).hexdigest() != checksums[name]:
            wrong.append(name)
    report.must_hold(f"{len(sample)} files read past the mount are the same", not wrong, otherwise=", ".join(wrong))


# ---------------------------------------------------------------- writing


def write_and_read(report: Report, pods: Pods) -> None:
    """New files through the one target, read and changed through the other."""
    report.title("Writing through one target, reading through the other")
    sizes = {f"small/{number:04}": number * 37 % 8192 for number in range(1000)} | {"large": 256 * MIB}
    (pods.one / "small").mkdir()
    begin = time.monotonic()
    with report.progress("writing, first target", sum(sizes.values())) as advance:
        written = report.in_thread(
            lambda: {name: content.write_file(pods.one / name, name, size, advance) for name, size in sizes.items()},
            limit_s=READ_LIMIT_S, what="writing",
        )  # fmt: skip
    seconds = time.monotonic() - begin
    report.figures["write_mb_per_s"] = round(sum(sizes.values()) / seconds / 1e6)
    with report.progress("reading, other target", sum(sizes.values())) as advance:
        read = report.in_thread(reading(pods.other, list(sizes), advance), limit_s=READ_LIMIT_S, what="reading back")
    report.must_hold(f"{len(sizes):,} files written through one are right through the other", read == written)
    changed = report.in_thread(lambda: change_both_ways(pods), limit_s=CALL_LIMIT_S, what="changing a file")
    report.must_hold("appends, renames and deletions are seen at once on the other side", changed)


def change_both_ways(pods: Pods) -> bool:
    """Whether each side sees what the other did."""
    with (pods.other / "small/0001").open("ab") as file:
        file.write(b"appended")
        file.flush()
        appended = (pods.one / "small/0001").read_bytes().endswith(b"appended")
    (pods.one / "small/0002").rename(pods.one / "renamed")
    (pods.other / "small/0003").unlink()
    return appended and (pods.other / "renamed").exists() and not (pods.one / "small/0003").exists()


# ---------------------------------------------------------------- a daemon dies


def kill_in_the_middle(report: Report, driver: Driver, pods: Pods, checksums: Checksums, *, known: bool) -> None:
    """SIGKILL to the daemon of the tree while its largest file is read."""
    report.title("Killing the daemon in the middle of a read")
    sizes = {name: (pods.other / name).stat().st_size for name in checksums}
    name = max(sizes, key=lambda candidate: sizes[candidate])
    path = pods.other / name
    content.drop_from_page_cache(path)
    before = {daemon.pid for daemon in driver.daemons()}
    reader = PatientReader(path=path, size=sizes[name], name=name if known else None)
    thread = reader.start()
    killed, read_before = False, 0
    with report.progress("reading, daemon killed", reader.size) as advance:
        shown = 0
        while thread.is_alive():
            thread.join(0.02)
            advance(reader.done_bytes - shown)
            shown = reader.done_bytes
            if not killed and reader.done_bytes > reader.size // 4:
                for pid in before:
                    os.kill(pid, signal.SIGKILL)
                killed, read_before = True, max(bytes_read(driver))
    report_the_cost(report, reader, killed=killed, checksum=checksums[name])
    after = {daemon.pid for daemon in driver.daemons()}
    report.must_hold("the keeper has started new daemons", bool(after) and not after & before)
    # Counters go on from one daemon to the next, from the last report of the one that died.
    read_bytes = max(bytes_read(driver)) - read_before
    text = f"a new daemon has read {read_bytes / 1e9:.2f} GB of it from the NAS"
    report.must_hold(text, not killed or read_bytes > reader.size // 2, otherwise="the page cache hid its death")


def bytes_read(driver: Driver) -> list[int]:
    """What each daemon has read from the NAS, as `efc status` tells it."""
    environment = dict(os.environ, RUN_DIR=str(driver.run_dir))
    command = [program("efc"), "status", "--json"]
    done = subprocess.run(command, env=environment, capture_output=True, timeout=20, check=True)
    return [mount["stats"]["bytes_read"] for mount in json.loads(done.stdout) if mount["stats"]]


def report_the_cost(report: Report, reader: PatientReader, *, killed: bool, checksum: str) -> None:
    """Honestly: the longest wait, every error, every wrong byte."""
    if not killed:
        report.note("the file was too short to kill the daemon in the middle of it")
    errors = ", ".join(f"{count} x {name}" for name, count in reader.errors.items()) or "none"
    report.note(f"longest wait of the reader: {reader.stall_ms_max:.0f} ms; errors it saw: {errors}")
    report.figures |= {
        "kill_stall_ms_max": round(reader.stall_ms_max, 1),
        "kill_errors": sum(reader.errors.values()),
        "kill_wrong_bytes": reader.wrong_bytes,
    }
    whole = reader.done_bytes == reader.size
    report.must_hold(
        "the reader came to the end", whole, otherwise=f"it has {reader.done_bytes:,} of {reader.size:,} bytes"
    )
    report.must_hold("no byte was wrong", whole and not reader.wrong_bytes and reader.checksum == checksum)


# ---------------------------------------------------------------- the end


def show_stats(report: Report, driver: Driver, pods: Pods) -> None:
    """NodeGetVolumeStats, as kubelet asks for it."""
    stats = driver.stats(pods.volume, pods.one)
    usage = {csi_pb2.VolumeUsage.Unit.Name(usage.unit).lower(): usage for usage in stats.usage}
    size = usage["bytes"]
    report.note(f"NodeGetVolumeStats: {size.available / 1e9:,.1f} of {size.total / 1e9:,.1f} GB free")
    report.must_hold(
        "the volume's condition is normal",
        not stats.volume_condition.abnormal,
        otherwise=stats.volume_condition.message,
    )


def take_away(report: Report, driver: Driver, pods: list[Pods]) -> None:
    """Unpublishes all targets and deletes what was created."""
    report.title("Unpublishing and deleting")
    times_ms = []
    for pod in pods:
        for target in (pod.one, pod.other):
            begin = time.monotonic()
            driver.unpublish(pod.volume, target, limit_s=CALL_LIMIT_S)
            times_ms.append((time.monotonic() - begin) * 1000)
            report.must_hold(f"target {target.parents[3].name[:8]} is gone", not os.path.lexists(target))
    created = pods[1].volume
    driver.delete(created.volume_id)
    listed = driver.call("controller", "ListVolumes", csi_pb2.ListVolumesRequest()).entries
    report.must_hold(
        "the created volume is deleted", created.volume_id not in {entry.volume.volume_id for entry in listed}
    )
    report.figures["unpublish_ms_median"] = round(statistics.median(times_ms), 1)


def check_idle(report: Report, driver: Driver) -> None:
    """Nothing is published any more. Daemons live on for their grace period and end with the keeper."""
    report.must_hold("no mount is left below kubelet's directory", not driver.published())
