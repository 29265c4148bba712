"""``efc warmup``: reads data once, so that it lies in the dataset's caches before anybody asks for it.

What is done to the mount is done by :mod:`csi.warming`; here is where paths lie, which levels are filled, what the
keeper counts meanwhile, and what is said. Exit status: 0 if all was read, 1 if some was not or much of it is in no
cache, 2 for what is refused, 130 if it was interrupted.
"""

import argparse
import asyncio
import os
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace as with_changes
from pathlib import Path

from csi._proto import efc_pb2
from csi.base.children import Children
from csi.base.errors import Code, DriverError
from csi.base.text import printable
from csi.cli.on_mount import Place, Places, without_nested
from csi.cli.unserved import mount_command, says_dead
from csi.cli.warmup_counts import Counts
from csi.cli.warmup_progress import DRAW_SECONDS, Progress
from csi.cli.warmup_summary import Outcome, print_failures, print_summary
from csi.node.keeper import STATUS_SECONDS_MAX, Keeper, KeeperUnreachableError, options_of, source_of
from csi.node.mount_status import silence_of, store_of, takes_nothing, workers_of
from csi.node.mounts import Mount, Mounts, read_mounts
from csi.warming.filling import Level
from csi.warming.note import Note
from csi.warming.pace import Pace
from csi.warming.passes import (
    PAUSE_SECONDS,
    Pass,
    bytes_cached,
    bytes_lost,
    bytes_uncached,
    is_another_worth_it,
    jobs_of_pass,
)
from csi.warming.tally import Figures
from csi.warming.walking import Root
from csi.warming.warming import Plan, Warming

#: Longest list of paths.
LIST_BYTES_MAX = 64 << 20
#: For the counters after Ctrl-C.
_LAST_STATUS_SECONDS_MAX = 0.5
#: A daemon says that its NAS is silent after 5 s, and the keeper has that a little later.
_SILENCE_LOOKS_MAX, _SILENCE_LOOK_SECONDS = 8, 0.25

#: MAJOR:MINOR of a file system -> what the keeper says of it.
Served = Mapping[str, efc_pb2.MountStatus]


def run(parsed: argparse.Namespace) -> int:
    """Runs ``efc warmup``; what is refused touches nothing."""
    try:
        places = _places(parsed)
        served = asyncio.run(_served(places, parsed.run_dir, is_forced=parsed.force, level=_level(parsed)))
        note = _note(places, served, parsed)
        outcome = _Warmup(places, served, note, parsed).run()
    except DriverError as error:
        print(f"efc: {printable(error.message)}", file=sys.stderr)
        return 2
    print_failures(outcome)
    if parsed.json or not parsed.quiet:
        print_summary(outcome, as_json=parsed.json)
    return outcome.exit_status


# ------------------------------------------------------------ before anything is read


def _level(parsed: argparse.Namespace) -> Level | None:
    """The one that is to be filled; None: all of them."""
    level = {"local": Level.LOCAL, "workers": Level.WORKERS}.get(parsed.to)
    if level is not None and parsed.force:
        message = f"--force is for mounts without caches, and --to {parsed.to} needs one"
        raise DriverError(Code.INVALID_ARGUMENT, message)
    return level


def _places(parsed: argparse.Namespace) -> list[Place]:
    texts = [*parsed.paths, *(_listed(parsed.list) if parsed.list else [])]
    if not texts:
        raise DriverError(Code.INVALID_ARGUMENT, "name a PATH, or a file of paths (--list)")
    places = Places(read_mounts())
    return without_nested(places.of(text) for text in texts)


def _listed(name: str) -> list[str]:
    """The paths in a file, one on each line; ``-`` is standard input."""
    try:
        if name == "-":
            text = sys.stdin.buffer.read(LIST_BYTES_MAX + 1)
        else:
            with Path(name).open("rb") as file:
                text = file.read(LIST_BYTES_MAX + 1)
    except OSError as error:
        raise DriverError(Code.INVALID_ARGUMENT, f"cannot read the list {name!r}: {error.strerror}") from None
    if len(text) > LIST_BYTES_MAX:
        raise DriverError(Code.INVALID_ARGUMENT, f"the list {name!r} is longer than {LIST_BYTES_MAX >> 20} MiB")
    if b"\0" in text:
        raise DriverError(Code.INVALID_ARGUMENT, f"the list {name!r} is no text: it has a NUL character")
    return [os.fsdecode(line) for line in text.split(b"\n") if line]


async def _served(places: Iterable[Place], run_dir: str, *, is_forced: bool, level: Level | None) -> Served:
    """What the keeper serves of these places; raises what is wrong with a mount, and FAILED_PRECONDITION.

    ``is_forced``: neither a keeper nor caches are needed. ``level`` is one that each mount must have.
    """
    mounts = {place.mount.device: place.mount for place in places}
    for mount in mounts.values():
        await _check_answers(mount, run_dir)
    try:
        found = {f"0:{one.connection}": one for one in (await Keeper(run_dir).status()).mounts}
    except KeeperUnreachableError:
        if not is_forced:
            raise
        return {}
    for device, mount in mounts.items():
        if is_forced:
            break
        if device not in found:
            message = (
                f"{mount.target} is not served by a keeper in {run_dir}: name that of its keeper (RUN_DIR, --run-dir)"
            )
            raise DriverError(Code.FAILED_PRECONDITION, message)
        if (lack := _lack(found[device], level)) is not None:
            raise DriverError(Code.FAILED_PRECONDITION, f"{source_of(found[device])} at {mount.target} {lack}")
    served = {device: found[device] for device in mounts if device in found}
    for status in served.values():
        _say_what_is_wrong(status, level)
    return served


async def _check_answers(mount: Mount, run_dir: str) -> None:
    """Raises what keeps a mount from answering: a NAS that is silent, or that nobody serves it."""
    try:
        await Mounts(children=Children()).statvfs(mount.target)
        return
    except DriverError as error:
        failure, reason = error, f"{mount.target}: {error.message}"
    if says_dead(failure):
        reason += f"; outside Kubernetes: {mount_command(mount)}"
    elif failure.code is Code.DEADLINE_EXCEEDED:
        silence = await _silence(mount, run_dir) or "nor does its NAS, it seems (efc status says more)"
        reason = f"{mount.target} does not answer: {silence}"
    raise DriverError(failure.code, reason)


async def _silence(mount: Mount, run_dir: str) -> str:
    """What the mount's daemon says of a NAS that does not answer: soon, if it waits for it; "" otherwise."""
    for _ in range(_SILENCE_LOOKS_MAX):
        try:
            found = (await Keeper(run_dir).status()).mounts
        except DriverError:
            return ""
        if said := "".join(silence_of(one) for one in found if f"0:{one.connection}" == mount.device):
            return said
        await asyncio.sleep(_SILENCE_LOOK_SECONDS)
    return ""


def _lack(mount: efc_pb2.MountStatus, level: Level | None) -> str | None:
    """Which caches a mount lacks that are to be filled; None if it has them."""
    cache = options_of(mount).cache
    if level is None and not _has_caches(mount):
        return "has no caches (options workers, cache-size): nothing would be kept; --force reads it anyway"
    if level is Level.LOCAL and not cache.store_mib:
        return "has no local store (options cache-dir, cache-size) that --to local could fill"
    if level is Level.LOCAL and mount.store_missing:
        return f"has no local store that --to local could fill: {mount.store_missing}"
    if level is Level.WORKERS and not cache.workers:
        return "has no workers (options workers, workers-key) that --to workers could fill"
    return None


def _say_what_is_wrong(mount: efc_pb2.MountStatus, level: Level | None) -> None:
    """Says why a level that is to be filled may not take all."""
    for of, note in ((Level.WORKERS, workers_of(mount)), (Level.LOCAL, store_of(mount))):
        if note and level in (None, of):
            print(f"efc: {printable(note)}", file=sys.stderr)


def _levels_of(mount: efc_pb2.MountStatus, count: int) -> list[Level]:
    """The levels of a mount that have room for so many bytes; the largest one if none has, or says so."""
    present = [level for level in Level if _lack(mount, level) is None]
    roomy = [level for level in present if not 0 < _capacity(mount.stats, level) < count]
    return roomy or sorted(present, key=lambda level: _capacity(mount.stats, level))[-1:]


def _has_caches(mount: efc_pb2.MountStatus) -> bool:
    cache = options_of(mount).cache
    return bool(cache.workers or cache.store_mib) or mount.stats.HasField("cache")


def _note(places: Sequence[Place], served: Served, parsed: argparse.Namespace) -> Note | None:
    """The note of what was read, where one can be kept."""
    keys = []
    for place in places:
        status = served.get(place.mount.device)
        keys += [source_of(status) if status else place.mount.source, place.path]
    try:
        # What one level was filled with another one need not have.
        keys += ["", parsed.to, *parsed.glob]
        return Note.open(Path(parsed.run_dir) / "warmup", keys, is_new=not parsed.resume)
    except OSError as error:
        print(
            f"efc: progress cannot be noted in {parsed.run_dir}, so an interrupted run starts over: {error.strerror}",
            file=sys.stderr,
        )
        return None


# ------------------------------------------------------------ reading


class _Warmup:
    """The passes over what was named."""

    def __init__(self, places: Sequence[Place], served: Served, note: Note | None, parsed: argparse.Namespace) -> None:
        self._served, self._note, self._parsed = served, note, parsed
        self._has_caches = any(_has_caches(mount) for mount in served.values())
        self._level = _level(parsed)
        self._plan = Plan(
            roots=[Root(path=place.path, device=_device(place.mount.device)) for place in places],
            globs=parsed.glob,
            jobs=parsed.jobs,
            budget_bytes=parsed.budget,
            pace=Pace(parsed.limit_rate),
            waits_for_rest=self._has_caches,
            levels={} if self._level is None else {_device(device): [self._level] for device in served},
        )
        self._keeper = Keeper(parsed.run_dir)
        self._progress = Progress(None if parsed.quiet else sys.stderr)
        self._outcome = Outcome(to=parsed.to)

    def run(self) -> Outcome:
        """Reads all of it, as often as it takes."""
        began, before = time.monotonic(), self._counts()
        try:
            self._passes()
        except KeyboardInterrupt:
            self._outcome.is_interrupted = True
        finally:
            self._progress.clear()
        outcome = self._outcome
        outcome.seconds = time.monotonic() - began
        limit = _LAST_STATUS_SECONDS_MAX if outcome.is_interrupted else STATUS_SECONDS_MAX
        counted = _since(before, self._counts(limit_seconds=limit))
        outcome.levels = dict(counted.levels) if counted else None
        if self._note is not None and not outcome.is_interrupted:
            if outcome.is_whole:
                self._note.remove()
            else:
                self._note.close()
        return outcome

    def _passes(self) -> None:
        passes: list[Pass] = []
        filling: list[Figures] = []
        plan, note = self._plan, self._note
        while True:
            number, began = len(passes) + 1, time.monotonic()
            try:
                figures, counted = self._pass(
                    with_changes(plan, jobs=jobs_of_pass(number, jobs=plan.jobs)), note, number
                )
            except DriverError as error:
                self._give_up_checking(error, number)
                return
            covered = figures.bytes_read + figures.bytes_noted
            if plan.levels:
                filling.append(figures)
                passes.append(_found(filling, plan, seconds=time.monotonic() - began))
                self._outcome.bytes_uncached = bytes_uncached(filling)
            elif not self._has_caches:
                return
            else:
                passes.append(Pass(bytes_missing=self._missing_at_first(figures, counted)))
            self._outcome.missing_bytes.append(passes[-1].bytes_missing)
            is_last = number == self._parsed.passes
            # Of workers that are not asked by readers, as they are late, the next pass finds out what they take.
            if (plan.levels or is_last) and self._is_in_vain(plan, figures, counted):
                if not plan.levels:
                    self._outcome.bytes_uncached = max(0, figures.bytes_read - figures.bytes_changed)
                return
            if is_last or not is_another_worth_it(passes) or not self._has_room(covered):
                return
            plan, note = self._asking(plan, covered), None
            if not plan.levels:
                return
            time.sleep(PAUSE_SECONDS)

    def _asking(self, plan: Plan, covered: int) -> Plan:
        """The next one, of a pass in which levels are asked: for all of the bytes that the pass before has covered.

        What an earlier run has read is asked for, too; a budget ends where it has ended before.
        """
        levels = plan.levels or self._levels(covered)
        return with_changes(
            plan,
            roots=[root for root in plan.roots if root.device in levels],
            levels=levels,
            waits_for_rest=False,
            budget_bytes=covered if plan.budget_bytes else 0,
        )

    def _missing_at_first(self, figures: Figures, counted: Counts | None) -> int:
        """What a level may not have after a pass that reads: all, unless the only one has given all of it.

        Of several levels the first that has a block gives it. A keeper that does not answer has not counted.
        """
        covered = figures.bytes_read + figures.bytes_noted
        has_several = any(len(levels) > 1 for levels in self._levels(covered).values())
        return covered if counted is None or has_several else counted.missing_bytes(figures)

    def _levels(self, count: int) -> dict[int, list[Level]]:
        """By the device of each mount: the levels that can have so many bytes."""
        levels = {_device(device): _levels_of(mount, count) for device, mount in self._served.items()}
        return {device: found for device, found in levels.items() if found}

    def _give_up_checking(self, error: DriverError, number: int) -> None:
        """Ends a pass that the daemon is too old for: all was read before, and no more is known."""
        if number == 1 or error.code is not Code.UNIMPLEMENTED:
            raise error
        self._outcome.passes.pop()
        self._progress.clear()
        print(f"efc: how much the caches have taken is not known: {printable(error.message)}", file=sys.stderr)

    def _is_in_vain(self, plan: Plan, figures: Figures, counted: Counts | None) -> bool:
        """Whether no level that is to be filled takes anything in now: another pass would bring nothing.

        One that has taken or given something in this pass does, though it may be late just now.
        """
        if plan.levels and (figures.bytes_refused < figures.bytes_absent or figures.bytes_held):
            return False
        if not plan.levels and counted is not None and (counted.taken_bytes or bytes_cached(counted.levels)):
            return False
        store, workers = self._level is not Level.WORKERS, self._level is not Level.LOCAL
        mounts = self._mounts() or []
        return bool(mounts) and all(takes_nothing(mount, store=store, workers=workers) for mount in mounts)

    def _pass(self, plan: Plan, note: Note | None, number: int) -> tuple[Figures, Counts | None]:
        """One of them: its figures, and what the mounts have counted meanwhile."""
        before = self._counts()
        warming = Warming(plan, note=note)
        self._outcome.passes.append(warming.figures())
        warming.start()
        try:
            while not warming.wait(DRAW_SECONDS):
                self._progress.show(warming.figures(), is_waiting=warming.is_waiting_for_rest, number=number)
        finally:
            warming.stop()
            self._outcome.passes[-1] = figures = warming.figures()
            # Later passes have a budget of what the first has covered, which a file that grows goes beyond.
            self._outcome.is_over_budget |= number == 1 and warming.is_over_budget
        return figures, _since(before, self._counts())

    def _counts(self, *, limit_seconds: float = STATUS_SECONDS_MAX) -> Counts | None:
        """What the mounts have counted so far; None if the keeper does not say."""
        mounts = self._mounts(limit_seconds=limit_seconds)
        return Counts.of(mounts) if mounts else None

    def _mounts(self, *, limit_seconds: float = STATUS_SECONDS_MAX) -> list[efc_pb2.MountStatus] | None:
        """How the mounts are now; None if the keeper does not say so of all."""
        if not self._served:
            return None
        try:
            mounts = asyncio.run(self._keeper.status(limit_seconds=limit_seconds)).mounts
        except DriverError:
            return None
        found = {f"0:{mount.connection}": mount for mount in mounts}
        return [found[device] for device in self._served] if self._served.keys() <= found.keys() else None

    def _has_room(self, count: int) -> bool:
        """Whether so many bytes can be in caches at all: reading more only drives out what is there."""
        stats = [mount.stats for mount in self._served.values()]
        capacities = [_capacity(each, self._level) for each in stats]
        self._outcome.room_bytes = room = sum(capacities) if all(capacities) else None
        if room is None or count <= room:
            return True
        self._outcome.bytes_uncached = max(self._outcome.bytes_uncached or 0, count - room)
        return False


def _capacity(stats: efc_pb2.DaemonStats, level: Level | None) -> int:
    """Bytes that the level has room for; of all levels, the one that has most: each may have all."""
    capacities = {Level.LOCAL: stats.store.capacity_bytes, Level.WORKERS: stats.cache.workers_capacity_bytes}
    return max(capacities.values()) if level is None else capacities[level]


def _device(text: str) -> int:
    major, _, minor = text.partition(":")
    return os.makedev(int(major), int(minor))


def _since(before: Counts | None, after: Counts | None) -> Counts | None:
    return None if before is None or after is None else after.since(before)


def _found(filling: Sequence[Figures], plan: Plan, *, seconds: float) -> Pass:
    """What the last pass has found that fills levels, by what these say."""
    figures, has_workers = filling[-1], any(Level.WORKERS in levels for levels in plan.levels.values())
    return Pass(
        bytes_missing=figures.bytes_lacking + figures.bytes_noted,
        bytes_taken=max(0, figures.bytes_taken - bytes_lost(filling)),
        # Workers are late for a moment; what a store refuses now it refuses in a moment, too.
        bytes_unasked=figures.bytes_refused if has_workers else 0,
        seconds=seconds,
    )
