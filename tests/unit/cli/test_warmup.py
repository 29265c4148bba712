"""`efc warmup` without a mount: where paths lie, what is shown, what is refused on the command line."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from csi._proto import efc_pb2
from csi.base.errors import Code, DriverError
from csi.cli import main, warmup
from csi.cli.figures import duration, rate, size
from csi.cli.on_mount import Place, Places, without_nested
from csi.cli.parsing import parser
from csi.cli.warmup_progress import Progress, Speed, line_of
from csi.cli.warmup_summary import Outcome, described, print_failures, print_summary
from csi.node.mounts import Mount
from csi.warming.filling import Level
from csi.warming.tally import Failure, Figures
from csi.warming.warming import Plan


def mount(target: str, *, device: str = "0:5", kind: str = "fuse.efc") -> Mount:
    return Mount(device=device, root="/", target=target, read_only=False, file_system_type=kind, source="nfs://nas/d")


def test_where_paths_lie(tmp_path: Path) -> None:
    data, pod = str(tmp_path / "data"), str(tmp_path / "pod")
    mounts = [
        mount("/", kind="ext4"), mount(data), mount(f"{data}/other", kind="ext4"), mount(f"{data}/inner", device="0:6"),
        mount(pod),
    ]  # fmt: skip
    (tmp_path / "link").symlink_to("data/below")
    (tmp_path / "circle").symlink_to("circle")
    places = Places(mounts)

    def where(text: str) -> tuple[str, str]:
        place = places.of(text)
        return place.path, place.mount.device

    # Nothing of these is there, and nothing is looked at on a mount.
    assert where(data) == (data, "0:5")
    assert where(f"{data}/x/../y//z") == (f"{data}/y/z", "0:5")
    assert where(f"{tmp_path}/link/file") == (f"{data}/below/file", "0:5")
    assert where(f"{data}/inner") == (f"{data}/inner", "0:6")
    assert where(f"{data}/inner/x") == (f"{data}/inner/x", "0:6")
    assert where(f"{pod}/a") == (f"{pod}/a", "0:5")
    for wrong in ("/", str(tmp_path), f"{data}x", f"{data}/other", f"{data}/other/x", f"{tmp_path}/circle/x"):
        with pytest.raises(DriverError, match="is not on a mount of EFC"):
            places.of(wrong)


def test_what_lies_below_another_path_is_read_once() -> None:
    one, other = mount("/m"), mount("/m/o", device="0:6")
    names = [("/m/a/b", one), ("/m/a", one), ("/m/a/b", one), ("/m/ab", one), ("/m/a/c", other)]
    places = [Place(path=path, mount=found) for path, found in names]
    assert [place.path for place in without_nested(places)] == ["/m/a", "/m/ab", "/m/a/c"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--jobs=0"], ["--jobs=257"], ["--limit-rate=5MiB"], ["--limit-rate=0MiB/s"], ["--budget=10"],
        ["--budget=1e9GiB"], ["--passes=0"], ["--to=nowhere"],
    ],
)  # fmt: skip
def test_a_wrong_command_line(arguments: Sequence[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["warmup", "/x", *arguments])
    assert ended.value.code == 2
    assert re.search("expected|invalid choice", capsys.readouterr().err)


def test_sizes_and_intervals() -> None:
    parsed = parser().parse_args(["warmup", "/x", "--budget=2GiB", "--limit-rate=512KiB/s", "--no-resume"])
    assert (parsed.budget, parsed.limit_rate, parsed.resume, parsed.jobs) == (2 << 30, 512 << 10, False, 16)
    assert [parser().parse_args(["top", f"--interval={text}"]).interval for text in ("500ms", "2s", "1m")] == [
        0.5, 2, 60,
    ]  # fmt: skip
    for wrong in ("2", "50ms", "2h", "-1s", "61m"):
        with pytest.raises(SystemExit):
            parser().parse_args(["top", f"--interval={wrong}"])


def test_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "list").write_bytes(b"/a b\n\n/c\xff\n/last")
    assert warmup._listed(str(tmp_path / "list")) == ["/a b", "/c\udcff", "/last"]
    (tmp_path / "nul").write_bytes(b"/a\0/b")
    with pytest.raises(DriverError, match="NUL"):
        warmup._listed(str(tmp_path / "nul"))
    monkeypatch.setattr(warmup, "LIST_BYTES_MAX", 3)
    with pytest.raises(DriverError, match="longer"):
        warmup._listed(str(tmp_path / "list"))


def test_figures_for_people() -> None:
    assert [size(0), size(1023), size(1536), size(5 << 40)] == ["0 B", "1023 B", "1.5 KiB", "5.0 TiB"]
    assert rate(1 << 20) == "1.0 MiB/s"
    assert [duration(seconds) for seconds in (0.4, 59, 60, 3599, 7445, 3 * 86_400)] == [
        "0 s", "59 s", "1:00", "59:59", "2:04:05", "3 d",
    ]  # fmt: skip


def test_a_line_says_what_is_known() -> None:
    begun = Figures(files_found=10, bytes_found=10 << 20, files_read=2, bytes_read=2 << 20)
    line = line_of(begun, bytes_per_second=1 << 20, is_waiting=False, number=1)
    assert line == "2 files  2.0 MiB  1.0 MiB/s  (10 files, 10.0 MiB found so far)"
    begun.is_walked, begun.bytes_noted, begun.bytes_missed = True, 2 << 20, 1 << 20
    line = line_of(begun, bytes_per_second=1 << 20, is_waiting=False, number=2)
    assert line == "check 1:  50%  2 of 10 files  5.0 MiB of 10.0 MiB  1.0 MiB/s  5 s left"
    assert "left" not in line_of(begun, bytes_per_second=0, is_waiting=False, number=1)
    assert line_of(Figures(is_walked=True), bytes_per_second=0, is_waiting=False, number=1).startswith("100%")


def test_a_rate_is_that_of_the_last_while() -> None:
    speed = Speed()
    assert speed.at(0.0, 0) == 0
    assert speed.at(1.0, 100) == 100
    for second in range(2, 60):
        speed.at(float(second), 100 + second)
    assert speed.at(60.0, 160) == pytest.approx(1.0)
    assert speed.at(61.0, 5) == 0, "another pass begins at nothing"


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("stream", "shown"), [(_Terminal(), 5), (io.StringIO(), 1)])
def test_how_often_it_is_shown(stream: io.StringIO, shown: int) -> None:
    now = 0.0
    progress = Progress(stream, clock=lambda: now)
    for step in range(1, 101):
        now = step * (0.01 if stream.isatty() else 0.1)
        progress.show(Figures(), is_waiting=False, number=1)
    progress.clear()
    assert 1 <= stream.getvalue().count("found so far") <= shown
    assert ("\r" in stream.getvalue()) is stream.isatty()


def test_a_summary(capsys: pytest.CaptureFixture[str]) -> None:
    first = Figures(
        files_read=2, bytes_read=3 << 20, files_failed=1, failures=[Failure(path="/m/\x1b", error_number=13)]
    )
    outcome = Outcome(
        passes=[first, Figures(bytes_read=3 << 20)], seconds=3.0, missing_bytes=[3 << 20, 0],
        levels={"memory": 0, "workers": 3 << 20, "nas": 3 << 20},
    )  # fmt: skip
    print_summary(outcome, as_json=False)
    assert capsys.readouterr().out.splitlines() == [
        "Read 2 files, 3.0 MiB, in 3 s (2.0 MiB/s, 2 passes).",
        "Through the mount meanwhile came from the daemon's memory 0 B, workers 3.0 MiB, the NAS 3.0 MiB.",
        "All that was read is in the caches.",
        "Not read: 1 file.",
    ]
    assert outcome.exit_status == 1
    assert json.loads(json.dumps(described(outcome)))["failures"][0]["errno"] == "EACCES"
    outcome.is_interrupted = True
    assert (outcome.exit_status, outcome.is_whole) == (130, False)


def status(*, store_mib: int = 0, workers: str = "", store_missing: str = "") -> efc_pb2.MountStatus:
    cache = efc_pb2.CacheConfig(store_mib=store_mib, workers=workers)
    return efc_pb2.MountStatus(config=efc_pb2.DaemonConfig(cache=cache), store_missing=store_missing)


def test_which_caches_a_mount_lacks_is_said_in_words() -> None:
    assert "no caches (options workers, cache-size)" in (warmup._lack(status(), None) or "")
    assert "no local store (options cache-dir, cache-size)" in (warmup._lack(status(workers="w:1"), Level.LOCAL) or "")
    missing = warmup._lack(status(store_mib=64, store_missing="no directory is free"), Level.LOCAL)
    assert "no directory is free" in (missing or "")
    assert "no workers (options workers" in (warmup._lack(status(store_mib=64), Level.WORKERS) or "")
    both = status(store_mib=64, workers="w:1")
    assert [warmup._lack(both, level) for level in (None, *Level)] == [None] * 3


def test_room_is_that_of_the_level_that_is_filled() -> None:
    stats = efc_pb2.DaemonStats(
        store=efc_pb2.StoreStats(capacity_bytes=64), cache=efc_pb2.CacheStats(workers_capacity_bytes=256)
    )
    assert [warmup._capacity(stats, level) for level in (Level.LOCAL, Level.WORKERS, None)] == [64, 256, 256]


def test_one_level_and_no_caches_exclude_each_other() -> None:
    parsed = parser().parse_args(["warmup", "/x", "--to=local", "--force"])
    with pytest.raises(DriverError, match="--force is for mounts without caches"):
        warmup._level(parsed)
    assert [warmup._level(parser().parse_args(["warmup", "/x", f"--to={to}"])) for to in ("both", "workers")] == [
        None, Level.WORKERS,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("to", "missing_bytes", "said"),
    [
        ("workers", [3 << 20, 0], "All that was looked at is at the workers."),
        ("local", [3 << 20, 1 << 20], "The last pass found 1.0 MiB that was not in the local store."),
        ("local", [3 << 20], "3.0 MiB was not in the local store before; only a further pass tells what stays there."),
        ("both", [3 << 20, 0], "All that was read is in the caches."),
        (
            "both", [3 << 20, 1 << 20],
            "The last pass found 1.0 MiB that was not in each of the caches, 0 B of it in none.",
        ),
    ],
)  # fmt: skip
def test_a_summary_is_about_what_was_filled(
    to: str, missing_bytes: list[int], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    passes = [Figures(files_read=1, bytes_read=3 << 20)] * len(missing_bytes)
    outcome = Outcome(to=to, passes=passes, seconds=1.0, missing_bytes=missing_bytes, room_bytes=1 << 20)
    print_summary(outcome, as_json=False)
    lines = capsys.readouterr().out.splitlines()
    has_room = {"local": "The local store has", "workers": "The workers have", "both": "The caches have"}[to]
    assert lines[-2:] == [said, f"{has_room} room for 1.0 MiB, less than all of that."]
    assert described(outcome)["to"] == to


def test_what_the_level_does_not_take_is_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    refused = Figures(files_read=1, bytes_read=3 << 20, bytes_lacking=3 << 20, bytes_refused=3 << 20)
    taken = Figures(files_read=1, bytes_read=3 << 20, bytes_lacking=3 << 20, bytes_taken=3 << 20)
    outcome = Outcome(to="workers", passes=[taken, refused], seconds=1.0, missing_bytes=[3 << 20, 3 << 20])
    print_summary(outcome, as_json=False)
    assert capsys.readouterr().out.splitlines()[-1] == "3.0 MiB was not taken at the workers: efc status says more."
    assert (outcome.exit_status, described(outcome)["bytes_refused"]) == (1, 3 << 20)
    outcome.passes.reverse()
    assert outcome.exit_status == 0, "a later pass had it taken"


@pytest.mark.parametrize("to", ["local", "workers"])
def test_bytes_are_those_that_a_level_has_taken(to: str, capsys: pytest.CaptureFixture[str]) -> None:
    looked_at = Figures(files_read=2, bytes_read=8 << 20, bytes_lacking=8 << 20, bytes_refused=8 << 20)
    outcome = Outcome(to=to, passes=[looked_at], seconds=2.0, missing_bytes=[8 << 20])
    where = {"local": "in the local store", "workers": "at the workers"}[to]

    def said() -> tuple[object, ...]:
        print_summary(outcome, as_json=False)
        found = described(outcome)
        return capsys.readouterr().out.splitlines()[0], *map(
            found.get, ("bytes", "bytes_looked_at", "bytes_per_second")
        )

    nothing = f"Looked at 2 files, 8.0 MiB, in 2 s: 0 B was read and taken {where} (0 B/s)."
    assert said() == (nothing, 0, 8 << 20, 0)
    outcome.passes[0].bytes_taken = 6 << 20
    outcome.passes.append(Figures(bytes_read=8 << 20, bytes_taken=2 << 20))
    some = f"Looked at 2 files, 8.0 MiB, in 2 s, 2 passes: 8.0 MiB was read and taken {where} (4.0 MiB/s)."
    assert said() == (some, 8 << 20, 8 << 20, 4 << 20)


@pytest.mark.parametrize(
    ("uncached_mib", "status"), [(None, 0), (0, 0), (10, 0), (11, 1), (100, 1)]
)  # fmt: skip
def test_data_that_is_in_no_cache_is_a_failure(
    uncached_mib: int | None, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    passes = [Figures(files_read=1, bytes_read=100 << 20)] * 2
    uncached = None if uncached_mib is None else uncached_mib << 20
    outcome = Outcome(passes=passes, seconds=1.0, missing_bytes=[100 << 20] * 2, bytes_uncached=uncached)
    assert (outcome.exit_status, described(outcome)["bytes_uncached"]) == (status, uncached)
    print_failures(outcome)
    assert ("is not in the caches: efc status says more" in capsys.readouterr().err) == bool(status)


@pytest.mark.parametrize(
    ("store_mib", "workers_mib", "levels"),
    [
        (8, 8, [Level.LOCAL, Level.WORKERS]),
        (2, 8, [Level.WORKERS]),
        (8, 2, [Level.LOCAL]),
        (2, 1, [Level.LOCAL]),
        (0, 0, [Level.LOCAL, Level.WORKERS]),
    ],
    ids=["both", "a small store", "small workers", "the larger one", "nobody says"],
)
def test_levels_that_have_room_are_filled(store_mib: int, workers_mib: int, levels: list[Level]) -> None:
    """Others would lose what they have to what they cannot keep."""
    mount = status(store_mib=64, workers="w:1")
    mount.stats.store.capacity_bytes, mount.stats.cache.workers_capacity_bytes = store_mib << 20, workers_mib << 20
    assert warmup._levels_of(mount, 4 << 20) == levels
    assert warmup._levels_of(status(), 4 << 20) == []


class Passes:
    """In the place of passes: of each its figures, or why it could not be made."""

    def __init__(self, found: Sequence[Figures | DriverError]) -> None:
        self._left = list(found)
        self.plans: list[Plan] = []
        self.is_over_budget = self.is_waiting_for_rest = False
        self._now: Figures | DriverError = Figures()

    def __call__(self, plan: Plan, *, note: object) -> Passes:
        del note
        self.plans.append(plan)
        self._now = self._left.pop(0)
        return self

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def wait(self, _seconds: float) -> bool:
        if isinstance(self._now, DriverError):
            raise self._now
        return True

    def figures(self) -> Figures:
        return self._now if isinstance(self._now, Figures) else Figures()


_MIB = 1 << 20
_READ = Figures(files_read=1, bytes_read=100 * _MIB)


def asked(*, lacking: int, absent: int | None = None, refused: int = 0, taken: int = 0) -> Figures:
    """What levels say of the same data, in MiB; what one lacks all do unless ``absent`` says otherwise."""
    absent = lacking if absent is None else absent
    return Figures(
        files_read=1, bytes_read=100 * _MIB, bytes_lacking=lacking * _MIB, bytes_absent=absent * _MIB,
        bytes_refused=refused * _MIB, bytes_taken=taken * _MIB,
    )  # fmt: skip


_OLD = DriverError(Code.UNIMPLEMENTED, "the mount's daemon is of a release that cannot fill one level alone")
#: How the command ends after some passes, what it prints, and what the passes were to do.
Ended = Callable[[Sequence[Figures | DriverError], Sequence[str]], tuple[int, str, list[Plan]]]


@pytest.fixture
def after(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Ended:
    """All that is read comes from the NAS, by the counters of a mount from which somebody else reads as well."""
    counted = status(workers="w:1")
    counted.stats.cache.workers_ready = 1

    def mounts(*_: object, **__: object) -> list[efc_pb2.MountStatus]:
        counted.stats.nfs.bytes_read += 500 * _MIB
        return [counted]

    async def served(*_: object, **__: object) -> dict[str, efc_pb2.MountStatus]:
        return {"0:5": counted}

    monkeypatch.setattr(warmup, "PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(warmup._Warmup, "_mounts", mounts)
    monkeypatch.setattr(warmup, "_places", lambda _: [Place(path="/m", mount=mount("/m"))])
    monkeypatch.setattr(warmup, "_served", served)

    def end(found: Sequence[Figures | DriverError], arguments: Sequence[str]) -> tuple[int, str, list[Plan]]:
        passes = Passes(found)
        monkeypatch.setattr(warmup, "Warming", passes)
        ended = main(["warmup", "/m", "--run-dir", str(tmp_path), *arguments])
        written = capsys.readouterr()
        return ended, written.out + written.err, passes.plans

    return end


@pytest.mark.parametrize(
    ("found", "arguments", "ended", "said"),
    [
        pytest.param([_READ, asked(lacking=0)], [], 0, "All that was read is in the caches", id="all lies there"),
        pytest.param(
            [_READ, asked(lacking=100, refused=100), asked(lacking=60, refused=60), asked(lacking=0)],
            [], 0, "All that was read is in the caches", id="workers were late in all of two passes",
        ),
        pytest.param(
            [_READ, *[asked(lacking=100, refused=100)] * 4], [], 1, "100.0 MiB of 100.0 MiB is not in the caches",
            id="they do not answer in any",
        ),
        pytest.param(
            [_READ, *[asked(lacking=100, taken=100)] * 2], [], 1, "100.0 MiB of 100.0 MiB is not in the caches",
            id="they keep nothing of what they take",
        ),
        pytest.param([_READ, asked(lacking=100, taken=100)], ["--passes=2"], 0, "100.0 MiB that was not in the caches",
                     id="given in the last pass"),
        pytest.param(
            [_READ, asked(lacking=100, absent=0)], [], 0, "100.0 MiB that was not in each of the caches, 0 B of it",
            id="one of two levels has all",
        ),
        pytest.param([_READ, _OLD], [], 0, "how much the caches have taken is not known: the mount's daemon is of a",
                     id="a daemon of an earlier release"),
        pytest.param([_OLD], ["--to=workers"], 2, "cannot fill one level alone", id="and a level alone"),
    ],
)  # fmt: skip
def test_what_is_said_after_passes(
    found: list[Figures | DriverError], arguments: list[str], ended: int, said: str, after: Ended
) -> None:
    status, written, plans = after(found, arguments)
    assert (status, said in written) == (ended, True), written
    assert len(plans) == len(found), "no pass too few or too many"
    assert [not plan.levels for plan in plans] == [arguments[:1] != ["--to=workers"], *[False] * (len(plans) - 1)]


def test_a_keeper_that_has_gone_costs_no_check(after: Ended, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its counters tell where bytes came from; what caches have the daemon says, which serves on."""
    monkeypatch.setattr(warmup._Warmup, "_mounts", lambda *_, **__: None)
    ended, written, plans = after([_READ, asked(lacking=100, refused=100), asked(lacking=0)], [])
    assert (ended, len(plans), "All that was read is in the caches" in written) == (0, 3, True)
