"""Boots a kernel and runs this folder's tests in there: `python -m tests.kernels [--short] VERSION [ARGUMENT...]`.

Arguments are pytest's. In tests/support/sandbox, as root. Ends with a line of figures. Where the kernel or QEMU cannot
be had it says why and ends with the status of a part that is skipped. What tests measured is added to
results/kernels.details.json.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import sys
import tempfile
from pathlib import Path

from tests.kernels.machine import Kernel, MachineError, NotHereError
from tests.support.leaks import no_leaks, require_sandbox
from tests.support.paths import RESULTS
from tests.support.suite import SKIP_STATUS, figures_of_pytest

#: A guest without /dev/kvm takes so many times as long for everything.
SLOWNESS = 20
_LIMIT_S = {"short": 2400, "full": 3 * 3600}
#: What the guest's processes get of this one's environment, beside their own.
_HANDED_ON = ("EFC_BIN_DIR", "KERNELS_KILLS", "PYTEST_ADDOPTS")


def main() -> int:
    """The exit status of the tests, of a guest that did not get that far (1), or of a part that is skipped."""
    parser = argparse.ArgumentParser(prog="python -m tests.kernels", description=__doc__)
    parser.add_argument("--short", action="store_true", help="only what is marked `short`")
    parser.add_argument("version", help="6.1, for example")
    parser.add_argument("pytest", nargs=argparse.REMAINDER, help="what pytest gets")
    arguments = parser.parse_args()
    require_sandbox()
    try:
        kernel = Kernel.get(arguments.version)
    except NotHereError as error:
        print(error)
        return SKIP_STATUS
    with no_leaks(), tempfile.TemporaryDirectory(prefix="efc-kernels-") as name:
        share = Path(name)
        try:
            status = kernel.run(
                _command(arguments.pytest, is_short=arguments.short),
                share=share,
                limit_s=_LIMIT_S["short" if arguments.short else "full"],
            )
        except MachineError as error:
            print(f"-- {error}")
            status = 1
        _keep(share, arguments.version, part="kernels-short" if arguments.short else "kernels")
        print(figures_of_pytest(share / "kernels.xml", status), flush=True)
    return status


def _command(pytest: list[str], *, is_short: bool) -> str:
    environment = {name: os.environ[name] for name in _HANDED_ON if name in os.environ}
    environment |= {"EFC_TEST_SLOWNESS": str(SLOWNESS), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [
        "env", *(f"{name}={value}" for name, value in environment.items()), "tests/support/sandbox",
        sys.executable, "-m", "pytest", "-q", "-s", "--color=no", "-p", "no:cacheprovider", "--durations=10",
        "--junit-xml=results/kernels.xml", *(["-m", "short"] if is_short else []), *pytest, "tests/kernels",
    ]  # fmt: skip
    return shlex.join(command)


def _keep(share: Path, version: str, *, part: str) -> None:
    """Adds what the guest has left in its results to those of the host."""
    measured = [json.loads(path.read_text()) for path in share.glob("*.details.json")]
    details = RESULTS / f"{part}.details.json"
    before = json.loads(details.read_text()) if details.exists() else {}
    merged = {key: value for one in measured for key, value in one.items()}
    RESULTS.mkdir(exist_ok=True)
    details.write_text(json.dumps({**before, version: merged}, indent=2) + "\n")
    if (share / "kernels.xml").exists():
        shutil.copy(share / "kernels.xml", RESULTS / f"{part}.{version}.xml")
    if (share / "logs").exists():
        shutil.copytree(share / "logs", RESULTS / "logs" / f"{part}-{version}", dirs_exist_ok=True)


if __name__ == "__main__":
    sys.exit(main())
