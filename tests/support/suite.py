"""Runs the parts of `make test`: `python -m tests.support.suite PART... [+ PART...]`.

Parts run one after another; those behind a "+" beside those before it, since most tests wait more than they work. Then
each line of output begins with its part.

Each command runs in a sandbox of its own, so that what one leaves or hangs in cannot disturb the next, and killing it
kills everything that it started. Parts of `make check` need no root: any user can run them, then without a sandbox, and
root runs them without root's privileges, so that one that comes to need them is noticed. A part's output passes through
as it comes; at its end there is one line of figures, and results/PART.json. At the end of all, the tests that failed
are named again, and the last line sums all parts. A part fails when a test of it fails, when its command does, when it
runs past its time limit, and when it ran no test at all. What cannot run here ends with status 77 after a line that
says why; it counts as skipped, and the line is there again at the end.

A suite that is told to end (SIGTERM, SIGINT, SIGHUP) takes the running sandbox and its folder with it, and ends with
128 + the signal's number.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from tests.support.paths import RESULTS, ROOT, SUPPORT, TOOLS


@dataclass(frozen=True, kw_only=True)
class Figures:
    """How many tests passed, failed and were skipped."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0

    def __add__(self, other: Figures) -> Figures:
        return Figures(
            passed=self.passed + other.passed,
            failed=self.failed + other.failed,
            skipped=self.skipped + other.skipped,
        )

    def __str__(self) -> str:
        text = f"{self.passed} passed, {self.failed} failed"
        return f"{text}, {self.skipped} skipped" if self.skipped else text


@dataclass(frozen=True, kw_only=True)
class Part:
    """One part: commands, how to read their figures from (exit status, output), and a limit on its time."""

    commands: Sequence[Sequence[str]]
    read: Callable[[int, str], Figures]
    limit_s: float
    needs_root: bool = True


#: As automake has it.
SKIP_STATUS = 77


def _pytest(
    name: str, *paths: str, limit_s: float, runner: Sequence[str] = ("pytest", "-q"), needs_root: bool = True
) -> Part:
    report = RESULTS / f"{name}.xml"

    def read(status: int, _output: str) -> Figures:
        return figures_of_pytest(report, status)

    command = [sys.executable, "-m", *runner, "--durations=5", f"--junit-xml={report}", *paths]
    return Part(commands=[command], read=read, limit_s=limit_s, needs_root=needs_root)


def figures_of_pytest(report: Path, status: int) -> Figures:
    """Of its report in junit's form, and its exit status; one that left no report has failed."""
    if not report.exists():
        return Figures(failed=1)
    suites = list(ElementTree.parse(report).getroot().iter("testsuite"))
    total, bad, skipped = (
        sum(int(suite.get(key, 0)) for suite in suites for key in keys)
        for keys in (("tests",), ("failures", "errors"), ("skipped",))
    )
    return Figures(passed=total - bad - skipped, failed=bad or int(status != 0), skipped=skipped)


def _read_cargo(status: int, output: str) -> Figures:
    lines = re.findall(r"test result: .*? (\d+) passed; (\d+) failed; (\d+) ignored", output)
    passed, failed, skipped = (sum(int(line[column]) for line in lines) for column in range(3))
    return Figures(passed=passed, failed=failed or int(status != 0), skipped=skipped)


def _read_status(status: int, _output: str) -> Figures:
    return Figures(passed=int(status == 0), failed=int(status != 0))


def _read_last_line(status: int, output: str) -> Figures:
    """Of a program that ends in a line like ours."""
    found = re.findall(r"(\d+) passed, (\d+) failed(?:, (\d+) skipped)?", output)
    if not found:
        return Figures(failed=1)
    passed, failed, skipped = (int(number or 0) for number in found[-1])
    return Figures(passed=passed, failed=failed or int(status != 0), skipped=skipped)


_PYTHON_CODE = ("csi", "tests", "bench", "examples", "setup.py")

PARTS = {
    "lint": Part(
        commands=[
            [sys.executable, "-m", "ruff", "check", "--quiet", *_PYTHON_CODE],
            [sys.executable, "-m", "ruff", "format", "--check", "--quiet", *_PYTHON_CODE],
            [sys.executable, "-m", "mypy"],
            [str(Path(sys.executable).parent / "lint-imports"), "--no-cache", "--no-logo"],
            [sys.executable, "csi/_proto/generate.py", "--check"],
            [sys.executable, "-m", "tests.support.module_circles"],
            ["cargo", "fmt", "--all", "--check"],
            ["cargo", "clippy", "--quiet", "--locked", "--workspace", "--all-targets", "--", "-D", "warnings"],
            [str(TOOLS / "cargo-deny"), "--locked", "check", "licenses", "bans", "sources"],
        ],
        read=_read_status,
        limit_s=900,
        needs_root=False,
    ),
    "unit": _pytest("unit", "tests/unit", limit_s=600, needs_root=False),
    "rust": Part(
        commands=[[sys.executable, "-m", "tests.support.rust_tests", "--without-root"]],
        read=_read_cargo,
        limit_s=1200,
        needs_root=False,
    ),
    "rust-root": Part(
        commands=[[sys.executable, "-m", "tests.support.rust_tests"]],
        read=_read_cargo,
        limit_s=1200,
    ),
    "tools": _pytest("tools", "tests/tools", limit_s=300),
    "csi": _pytest("csi", "tests/csi", limit_s=900),
    "errors": _pytest("errors", "tests/errors", limit_s=900),
    "sanity": Part(commands=[[sys.executable, "-m", "tests.conformance.csi"]], read=_read_last_line, limit_s=900),
    "posix": _pytest("posix", "tests/conformance/posix", limit_s=600),
    "consistency": _pytest("consistency", "tests/conformance/consistency", limit_s=900),
    "integrity": _pytest("integrity", "tests/integrity", limit_s=1500),
    "faults": _pytest("faults", "tests/faults", limit_s=3 * 3600),
    "releases": _pytest("releases", "tests/releases", limit_s=3 * 3600),
    # Each kernel is a machine of its own.
    "kernels": Part(
        commands=[[sys.executable, "-m", "tests.kernels", version] for version in ("6.1", "6.12")],
        read=_read_last_line,
        limit_s=6 * 3600,
    ),
    "kernels-short": Part(
        commands=[[sys.executable, "-m", "tests.kernels", "--short", "6.1"]], read=_read_last_line, limit_s=2700
    ),
    "foreign": _pytest("foreign", "tests/foreign", limit_s=3 * 3600),
    "operator": _pytest("operator", "tests/operator", limit_s=1800),
    "scale": _pytest("scale", "tests/scale", limit_s=7200),
    "cluster": _pytest("cluster", "tests/cluster", limit_s=3600),
    # The limits of short.py, and ten minutes for the tests.
    "cluster-short": _pytest("cluster-short", "tests/cluster", limit_s=3600, runner=("tests.cluster.short",)),
}


@dataclass(kw_only=True)
class _Output:
    """What a part prints: as it is, or with the part's name before each line where several run side by side."""

    prefix: str = ""

    def line(self, text: str) -> None:
        sys.stdout.write("".join(f"{self.prefix}{line}" for line in f"{text}\n".splitlines(keepends=True)))
        sys.stdout.flush()


def failed_in(printed: str) -> list[str]:
    """The lines by which pytest and cargo name what failed."""
    return re.findall(r"^(?:FAILED|ERROR) .+|^test .+ \.\.\. FAILED$", printed, flags=re.MULTILINE)


@dataclass(kw_only=True)
class Outcome:
    """What came of one part."""

    figures: Figures
    #: Lines that name what failed.
    failed: list[str]
    #: Or "".
    why_skipped: str


def run_part(name: str, part: Part, *, beside_others: bool = False) -> Outcome:
    """Runs one part, prints its line of figures and writes results/NAME.json."""
    started = time.monotonic()
    output = _Output(prefix=f"{name}: " if beside_others else "")
    output.line(f"\n== {name}")
    _details_path(name).unlink(missing_ok=True)
    total = Figures()
    failed: list[str] = []
    why_skipped = ""
    for command in part.commands:
        wrapped = [*_wrapper(needs_root=part.needs_root), *command]
        status, printed = _run(wrapped, limit_s=part.limit_s - (time.monotonic() - started), output=output)
        if status == SKIP_STATUS:
            why_skipped = printed.strip().rpartition("\n")[2]
            total += Figures(skipped=1)
            continue
        figures = part.read(status, printed)
        if status != 0:
            output.line(f"-- exit status {status}: {' '.join(command)}")
            failed += failed_in(printed) or [f"exit status {status}: {' '.join(command)}"]
        total += figures
    if total == Figures(skipped=total.skipped) and not why_skipped:
        total += Figures(failed=1)
        output.line(f"-- {name} ran no test")
    duration_s = time.monotonic() - started
    output.line(f"== {name}: {total} in {duration_s:.0f} s")
    result = {"part": name, **dataclasses.asdict(total), "duration_s": round(duration_s, 1)}
    (RESULTS / f"{name}.json").write_text(json.dumps(result | _details(name), indent=2) + "\n")
    return Outcome(figures=total, failed=failed, why_skipped=why_skipped)


def _details(name: str) -> dict[str, object]:
    """What the part itself wrote into results/NAME.details.json, measurements for example."""
    path = _details_path(name)
    return {"details": json.loads(path.read_text())} if path.exists() else {}


def _details_path(name: str) -> Path:
    return RESULTS / f"{name}.details.json"


_ENDING_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def _wrapper(*, needs_root: bool) -> Sequence[str]:
    """What a command is started by: the sandbox, which only root can make; see the module."""
    if os.geteuid() != 0:
        return [str(SUPPORT / "sandbox")] if needs_root else []
    without_privileges = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--ambient-caps=-all"]
    return [str(SUPPORT / "sandbox"), *([] if needs_root else without_privileges)]


class _Running:
    """The commands that run now; once they have been ended, no other begins."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._processes: set[subprocess.Popen[str]] = set()
        self._is_over = False

    def add(self, process: subprocess.Popen[str]) -> None:
        with self._lock:
            self._processes.add(process)
            is_over = self._is_over
        if is_over:
            _kill_group(process)

    def remove(self, process: subprocess.Popen[str]) -> None:
        with self._lock:
            self._processes.discard(process)

    def end(self) -> None:
        with self._lock:
            self._is_over = True
            processes = list(self._processes)
        for process in processes:
            _kill_group(process)

    @property
    def is_over(self) -> bool:
        return self._is_over


_RUNNING = _Running()


def _run(command: Sequence[str], *, limit_s: float, output: _Output) -> tuple[int, str]:
    """Exit status (124 past the limit) and output, which is printed as it comes."""
    lines: list[str] = []
    timed_out = threading.Event()
    folder = tempfile.mkdtemp(prefix="efc-test.")  # the sandbox removes it, unless it is killed
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, errors="replace", start_new_session=True,
        # COLUMNS: pytest shortens what it says of a failure to a line's width.
        env={**os.environ, "EFC_TEST_FOLDER": folder, "TMPDIR": folder, "COLUMNS": "200"},
    ) as process:  # fmt: skip

        def stop() -> None:
            timed_out.set()
            _kill_group(process)

        limit = threading.Timer(max(limit_s, 1), stop)
        _RUNNING.add(process)
        limit.start()
        assert process.stdout is not None
        try:
            for line in process.stdout:  # ends when everything that writes to it is gone
                output.line(line.rstrip("\n"))
                lines.append(line)
        finally:
            limit.cancel()
            _RUNNING.remove(process)
            shutil.rmtree(folder, ignore_errors=True)
    if timed_out.is_set():
        output.line(f"-- stopped at its time limit: {' '.join(command)}")
    return (124 if timed_out.is_set() else process.returncode), "".join(lines)


def _kill_group(process: subprocess.Popen[str]) -> None:
    """The sandbox leads a process group, and its namespace ends with it; one that has ended by itself is fine."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)


def _end_on_signals() -> None:
    """Makes the signals that end a program raise SystemExit, so that what it started is ended too."""

    def end(number: int, _frame: object) -> None:
        for other in _ENDING_SIGNALS:
            signal.signal(other, signal.SIG_IGN)
        print(f"-- ended by {signal.Signals(number).name}", flush=True)
        sys.exit(128 + number)

    for number in _ENDING_SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup
            signal.signal(number, end)


@dataclass
class _Lane:
    """Parts that run one after another, and what came of them."""

    names: list[str]
    beside_others: bool
    total: Figures = Figures()
    durations: list[str] = dataclasses.field(default_factory=list)
    failed: list[str] = dataclasses.field(default_factory=list)
    skipped: list[str] = dataclasses.field(default_factory=list)
    #: What the lane itself failed with, a fault of the suite.
    fault: BaseException | None = None
    ended: threading.Event = dataclasses.field(default_factory=threading.Event)

    def run(self) -> None:
        try:
            self._run_all()
        except BaseException as fault:
            self.fault = fault
        finally:
            self.ended.set()

    def _run_all(self) -> None:
        for name in self.names:
            if _RUNNING.is_over:
                return
            for leftover in Path(RESULTS).glob(f"{name}.*"):
                leftover.unlink()
            started = time.monotonic()
            outcome = run_part(name, PARTS[name], beside_others=self.beside_others)
            self.total += outcome.figures
            self.failed += [f"{name}: {line}" for line in outcome.failed]
            self.skipped += [f"SKIPPED {name}: {outcome.why_skipped}"] if outcome.why_skipped else []
            self.durations.append(f"{name} {time.monotonic() - started:.0f} s")


def lanes_of(words: Sequence[str]) -> list[list[str]]:
    """Names of parts between "+"; raises KeyError for one that is no part."""
    lanes: list[list[str]] = [[]]
    for word in words:
        if word == "+":
            lanes.append([])
        else:
            PARTS[word]
            lanes[-1].append(word)
    return [lane for lane in lanes if lane]


def _run_lanes(lanes: Sequence[_Lane]) -> None:
    """Runs all of them, each by a thread; whatever ends this ends them, and waits for them."""
    try:
        for lane in lanes:
            threading.Thread(target=lane.run).start()
        for lane in lanes:
            lane.ended.wait()  # not join(): one that a signal has interrupted may not wait again (Python 3.11)
    except BaseException:
        _RUNNING.end()  # and the interpreter waits for the threads
        raise
    for lane in lanes:
        if lane.fault is not None:
            raise lane.fault


def main(words: Sequence[str]) -> int:
    """Runs the named parts; 0 when nothing failed."""
    _end_on_signals()
    RESULTS.mkdir(exist_ok=True)
    names = lanes_of(words)
    lanes = [_Lane(lane, beside_others=len(names) > 1) for lane in names]
    _run_lanes(lanes)
    total = sum((lane.total for lane in lanes), Figures())
    print(f"\nDurations: {', '.join(duration for lane in lanes for duration in lane.durations)}")
    for line in [line for lane in lanes for line in [*lane.skipped, *lane.failed]]:
        print(line)
    print(total, flush=True)
    return 1 if total.failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
