"""The ``efc`` command.

Each subcommand is a module that is imported only when it is used: ``efc status`` must not pay for gRPC. Exit status: 0
for success, 1 for a failure (with one line that says what failed, and how to fix it), 2 for a wrong command line.
"""

import argparse
import importlib
import os
import signal
import sys
import threading
from collections.abc import Sequence
from types import FrameType

from csi.base.errors import DriverError
from csi.base.text import printable
from csi.cli import parsing


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs ``efc ARGUMENTS``; returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if arguments[:1] == ["fs"]:
        # These arguments are not parsed here: the program has its own options and help.
        return _run("csi.cli.fs", argparse.Namespace(arguments=arguments[1:]))
    parsed = parsing.parser().parse_args(arguments)
    return _run(parsed.module, parsed)


def master(arguments: Sequence[str] | None = None) -> int:
    """Runs ``efc-master ARGUMENTS``, which is ``efc master ARGUMENTS``; returns the exit status."""
    return main(["master", *(sys.argv[1:] if arguments is None else arguments)])


def kubectl(arguments: Sequence[str] | None = None) -> int:
    """Runs ``kubectl-efc ARGUMENTS``, kubectl's plugin, which is ``efc dataset ARGUMENTS``; returns the exit status."""
    parsed = parsing.kubectl_parser().parse_args(arguments)
    return _run(parsed.module, parsed)


def _run(module: str, parsed: argparse.Namespace) -> int:
    if module == "csi.cli.serve":
        _do_without_openssl()
    _hear_interrupts()
    try:
        status = importlib.import_module(module).run(parsed)
        return int(status)
    except DriverError as error:
        print(f"efc: {printable(error.message)}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # The reader of our output had enough; what is buffered must not fail again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130


def _hear_interrupts() -> None:
    """Has Ctrl-C end the command at once.

    asyncio.run() puts a handler of its own in the place of Python's, which cancels what runs: an interrupt is lost that
    comes as something ends that is waited for with a limit (asyncio.wait_for until Python 3.12). Another handler than
    Python's it leaves alone.
    """

    def interrupted(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    in_main_thread = threading.current_thread() is threading.main_thread()
    if in_main_thread and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, interrupted)


def _do_without_openssl() -> None:
    """Keeps asyncio and hashlib from loading OpenSSL: 4.5 MB less in every node plugin.

    Both do without it when it cannot be imported. Nothing that a service of CSI has uses TLS but gRPC, which brings its
    own and is not asked for it on a unix socket; Python's own SHA-256 is fast enough for names.
    """
    for name in ("ssl", "_hashlib"):
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]  # documented: importing it fails
