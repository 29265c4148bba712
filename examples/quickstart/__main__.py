"""`python -m examples.quickstart`, as root, in tests/support/sandbox as `make quickstart` does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from types import FrameType

import grpc

from examples.quickstart.report import Report, StepError
from examples.quickstart.story import tell
from tests.support.leaks import LeakError, no_leaks
from tests.support.paths import RESULTS

TIME_LIMIT_S = 600


class _StopError(BaseException):
    """A signal asked the quick start to end; what it made goes away on the way out."""


def _stop(number: int, _frame: FrameType | None) -> None:
    raise _StopError(f"ended by {signal.Signals(number).name}" if number != signal.SIGALRM else "time limit reached")


def main() -> int:
    """Exit status 0 when everything that must hold does."""
    report = Report()
    if os.geteuid() != 0:
        report.console.print(
            "The quick start mounts file systems and starts an NFS server: run it as root (`make quickstart`)."
        )
        return 2
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM):
        signal.signal(number, _stop)
    signal.alarm(TIME_LIMIT_S)
    try:
        with no_leaks():
            tell(report, source=os.environ.get("SOURCE", ""))
        report.must_hold("nothing is left: no mount, no process, no directory", True)
    except LeakError as error:
        report.must_hold("nothing is left: no mount, no process, no directory", False, otherwise=str(error))
    except _StopError as stop:
        report.console.print(f"\n[yellow]{stop}; everything that was started is gone again[/yellow]")
        return 130
    except StepError as error:
        report.must_hold("the quick start runs to its end", False, otherwise=str(error))
    except grpc.RpcError as error:
        message = error.details() if isinstance(error, grpc.Call) else str(error)
        report.must_hold("every CSI call succeeds", False, otherwise=message or "")
    except (OSError, AssertionError, RuntimeError, subprocess.SubprocessError) as error:
        report.must_hold(
            "no error is seen", False, otherwise="\n".join([repr(error), *getattr(error, "__notes__", [])])
        )
    return report.finish(RESULTS)


if __name__ == "__main__":
    sys.exit(main())
