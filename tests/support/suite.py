"""Runs the parts of `make test` one after another: `python -m tests.support.suite PART...`.

Each command runs in a sandbox of its own, so that what one leaves or hangs in cannot disturb the next, and killing it
kills everything that it started. Parts of `make check` need no root: any user can run them, then without a sandbox, and
root runs them without root's privileges, so that one that comes to need them is noticed. A part's output passes through
as it comes; at its end there is one line of figures, and results/PART.json. The last line sums all parts. A part fails
when a test of it fails, when its command does, when it runs past its time limit, and when it ran no test at all. What
cannot run here ends with status 77 after a line that says why; it counts as skipped, and the line is there again at the
end.

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
    "unit": _pytest("unit", "tests/unit", limit_s=300, needs_root=False),
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
    "errors": _pytest("errors", "tests/errors", limit_s=600),
    "sanity": Part(commands=[[sys.executable, "-m", "tests.conformance.csi"]], read=_read_last_line, limit_s=900),
    "posix": _pytest("posix", "tests/conformance/posix", limit_s=600),
    "consistency": _pytest("consistency", "tests/conformance/consistency", limit_s=900),
    "integrity": _pytest("integrity", "tests/integrity", limit_s=900),
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
    "cluster": _pytest("cluster", "tests/cluster", limit_s=3600),
    # The limits of short.py, and ten minutes for the tests.
    "cluster-short": _pytest("cluster-short", "tests/cluster", limit_s=3600, runner=("tests.cluster.short",)),
}


def run_part(name: str, part: Part) -> tuple[Figures, str]:
    """Runs one part, prints its line of figures and writes results/NAME.json; why it was skipped, or ""."""
    started = time.monotonic()
    print(f"\n== {name}", flush=True)
    _details_path(name).unlink(missing_ok=True)
    total = Figures()
    why_skipped = ""
    for command in part.commands:
        wrapped = [*_wrapper(needs_root=part.needs_root), *command]
        status, output = _run(wrapped, limit_s=part.limit_s - (time.monotonic() - started))
        if status == SKIP_STATUS:
            why_skipped = output.strip().rpartition("\n")[2]
            total += Figures(skipped=1)
            continue
        figures = part.read(status, output)
        if status != 0:
            print(f"-- exit status {status}: {' '.join(command)}", flush=True)
        total += figures
    if total == Figures(skipped=total.skipped) and not why_skipped:
        total += Figures(failed=1)
        print(f"-- {name} ran no test", flush=True)
    duration_s = time.monotonic() - started
    print(f"== {name}: {total} in {duration_s:.0f} s", flush=True)
    result = {"part": name, **dataclasses.asdict(total), "duration_s": round(duration_s, 1)}
    (RESULTS / f"{name}.json").write_text(json.dumps(result | _details(name), indent=2) + "\n")
    return total, why_skipped


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


def _run(command: Sequence[str], *, limit_s: float) -> tuple[int, str]:
    """Exit status (124 past the limit) and output, which is printed as it comes."""
    output: list[str] = []
    timed_out = False
    folder = tempfile.mkdtemp(prefix="efc-test.")  # the sandbox removes it, unless it is killed
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, errors="replace", start_new_session=True,
        env={**os.environ, "EFC_TEST_FOLDER": folder, "TMPDIR": folder},
    ) as process:  # fmt: skip

        def stop(_signal: int, _frame: object) -> None:
            nonlocal timed_out
            timed_out = True
            _kill_group(process)

        signal.signal(signal.SIGALRM, stop)
        signal.setitimer(signal.ITIMER_REAL, max(limit_s, 1))
        assert process.stdout is not None
        try:
            for line in process.stdout:
                sys.stdout.write(line)
                sys.stdout.flush()
                output.append(line)
        except BaseException:
            _kill_group(process)
            process.stdout.read()  # ends when everything that writes to it is gone
            raise
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            shutil.rmtree(folder, ignore_errors=True)
    if timed_out:
        print(f"-- stopped at its time limit: {' '.join(command)}", flush=True)
    return (124 if timed_out else process.returncode), "".join(output)


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


def main(names: Sequence[str]) -> int:
    """Runs the named parts; 0 when nothing failed."""
    _end_on_signals()
    RESULTS.mkdir(exist_ok=True)
    total = Figures()
    durations: list[str] = []
    skipped: list[str] = []
    for name in names:
        for leftover in Path(RESULTS).glob(f"{name}.*"):
            leftover.unlink()
        started = time.monotonic()
        figures, why_skipped = run_part(name, PARTS[name])
        total += figures
        skipped += [f"SKIPPED {name}: {why_skipped}"] if why_skipped else []
        durations.append(f"{name} {time.monotonic() - started:.0f} s")
    print(f"\nDurations: {', '.join(durations)}")
    for line in skipped:
        print(line)
    print(total, flush=True)
    return 1 if total.failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
