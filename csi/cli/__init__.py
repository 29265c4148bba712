"""The ``efc`` command.

Each subcommand is a module that is imported when it is used: ``efc status`` must not pay for gRPC. Exit status: 0 for
success, 1 for what failed (with one line that says what, and how to mend it), 2 for a wrong command line.
"""

import argparse
import importlib
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from csi.base import driver
from csi.base.errors import DriverError
from csi.base.text import printable
from csi.cli import dataset_parser

_RUN_DIR = "/run/efc"
_IDLE_GRACE_SECONDS_MAX = 86_400
_DIGITS_MAX = 9
#: As csi.warming.warming has it, which is not imported for a command line.
_JOBS_MAX = 256
_BUDGET_BYTES_MIN = 1 << 20
_INTERVAL_SECONDS_MIN, _INTERVAL_SECONDS_MAX = 0.1, 3600.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs ``efc ARGUMENTS``; returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if arguments[:1] == ["fs"]:
        # These arguments are not parsed here: the program has its own options and help.
        return _run("csi.cli.fs", argparse.Namespace(arguments=arguments[1:]))
    parsed = parser().parse_args(arguments)
    return _run(parsed.module, parsed)


def master(arguments: Sequence[str] | None = None) -> int:
    """Runs ``efc-master ARGUMENTS``, which is ``efc master ARGUMENTS``; returns the exit status."""
    return main(["master", *(sys.argv[1:] if arguments is None else arguments)])


def kubectl(arguments: Sequence[str] | None = None) -> int:
    """Runs ``kubectl-efc ARGUMENTS``, kubectl's plugin, which is ``efc dataset ARGUMENTS``; returns the exit status."""
    parser: argparse.ArgumentParser = _Parser(
        prog="kubectl efc", description="The Datasets of a cluster that EFC serves."
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version")
    dataset_parser.add_commands(parser)
    parsed = parser.parse_args(arguments)
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


class _Parser(argparse.ArgumentParser):
    """A parser of a command, which says by itself what it does not know, with its own usage and not that of ``efc``."""

    def parse_known_args(  # type: ignore[override]  # as argparse calls it for a subcommand
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """As argparse has it, but that nothing unknown is handed on. Exits with status 2."""
        self._check_options(sys.argv[1:] if args is None else args)
        parsed, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return parsed, unknown

    def _check_options(self, arguments: Sequence[str]) -> None:
        """Exits at an unknown option before a subcommand, for whose name argparse would take the option's value."""
        # Only those of subcommands are a mapping, of their names to their parsers.
        subcommands = [action.choices for action in self._actions if isinstance(action.choices, dict)]
        for argument in arguments if subcommands else []:
            if argument == "--" or any(argument in names for names in subcommands):
                return
            name = argument.partition("=")[0]
            if name.startswith("--") and not any(known.startswith(name) for known in self._option_string_actions):
                self.error(f"unrecognized arguments: {argument}")


def _show_as_optional(parser: argparse.ArgumentParser, subcommand: str, form: str) -> None:
    """Has the usage show the subcommand as one that there need not be. Called when the parser has all options."""
    usage = parser.format_usage().removeprefix("usage: ").rstrip()
    parser.usage = usage.replace(f"{subcommand} ...", f"[{form}]")


class _Version(argparse.Action):
    """The action of ``--version``: looks the version up only when it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object, **__: object) -> None:
        print(f"efc {driver.version()}")
        parser.exit(0)


def parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    parser: argparse.ArgumentParser = _Parser(
        prog="efc", description="A NAS directory as a POSIX file system, and as Kubernetes volumes."
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_mount(commands)
    _add_umount(commands)
    _add_status(commands)
    _add_cache(commands)
    _add_top(commands)
    _add_warmup(commands)
    _add_upgrade(commands)
    _add_metrics(commands)
    _add_doctor(commands)
    _add_worker(commands)
    _add_master(commands)
    commands.add_parser("fs", help="work on a NAS without mounting it (efc fs --help)", add_help=False)
    _add_csi(commands)
    _add_operator(commands)
    _add_dataset(commands)
    _add_webhook(commands)
    _add_in_use(commands)
    _add_clean_node(commands)
    return parser


def _described(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, text: str
) -> argparse.ArgumentParser:
    return commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")


def _command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, text: str
) -> argparse.ArgumentParser:
    parser = _described(commands, name, text)
    parser.add_argument(
        "--run-dir",
        default=os.environ.get("RUN_DIR", _RUN_DIR),
        help="where the keeper's socket is (environment: RUN_DIR; %(default)s)",
    )
    parser.set_defaults(module=f"csi.cli.{name}")
    return parser


def _add_options(parser: argparse.ArgumentParser, text: str) -> None:
    parser.add_argument(
        "-o", dest="options", metavar="NAME[=VALUE],...", action="append", default=[], help=text
    )  # fmt: skip


def _add_mount(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = _command(commands, "mount", "mount a directory of a NAS; returns when it can be used")
    parser.usage = "efc mount [SOURCE] TARGET [--source PATH=SOURCE ...] [-o OPTIONS]"
    places = "nfs://HOST[:PORT]/PATH[?mountport=PORT], unless it is given by --source; and an existing directory"
    parser.add_argument("places", metavar="[SOURCE] TARGET", nargs="+", help=places)
    _add_sources(parser)
    _add_options(parser, "mount options (see docs/CONFIGURATION.md)")


def _add_sources(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--source",
        metavar="PATH=SOURCE",
        dest="sources",
        action="append",
        default=[],
        help="a source that shows at PATH below TARGET; may be given several times",
    )
    parser.add_argument(
        "--read-only-source",
        metavar="PATH=SOURCE",
        dest="read_only_sources",
        action="append",
        default=[],
        help="the same, and nobody changes anything of it",
    )


def _add_umount(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = _command(commands, "umount", "unmount targets and end their daemons")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("targets", metavar="TARGET", nargs="*", default=[], help="where it is mounted")
    which.add_argument("--all", action="store_true", help="all that the keeper has mounted, where no pods use it")
    parser.add_argument("--force", action="store_true", help="also when it is in use or hangs: its users get errors")


def _add_status(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = _command(commands, "status", "show what is mounted, and how it does")
    parser.epilog = (
        "STATE: serving; starting; restarting, a daemon is replaced; unresponsive nas, which does not answer; aborted, "
        "of no use any more. RESTARTS: daemons that were replaced. READ and WRITTEN: bytes from and to the NAS since "
        "it was mounted, so what caches gave is in neither (efc top shows that). REASON: what is not as it should be, "
        "and why the last daemon died, until the mount ends."
    )
    parser.add_argument("--json", action="store_true", help="as an array of objects")


def _add_cache(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = _command(commands, "cache", "show the local stores of this node, or remove some")
    parser.add_argument("--json", action="store_true", help="as an array of objects")
    parser.add_argument(
        "--directory",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="where stores are; may be repeated (where those of mounts are, and /var/cache/efc)",
    )
    actions = parser.add_subparsers(metavar="clear", dest="cache_command")
    clear = actions.add_parser(
        "clear", help="remove stores that no mount uses, instead", description="Remove stores that no mount uses."
    )
    which = clear.add_mutually_exclusive_group(required=True)
    which.add_argument("--unused", action="store_true", help="all of them")
    which.add_argument("stores", nargs="*", default=[], metavar="STORE", help="by full path, name or source")
    clear.add_argument(
        "--days", type=_count, default=0, metavar="N", help="with --unused: those that nobody has used for so long"
    )
    _show_as_optional(parser, "clear", "clear STORE ... | clear --unused")


def _add_top(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = _command(commands, "top", "show what each mount reads and writes per second, and from where; q ends it")
    parser.add_argument(
        "--interval", type=_interval, default=2.0, metavar="TIME", help="between two looks, such as 500ms or 10s (2s)"
    )
    parser.add_argument("--once", action="store_true", help="one interval, and end")
    parser.add_argument("--json", action="store_true", help="an array of objects, on a line of its own each time")


def _add_warmup(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    text = "read data once, so that it lies in the dataset's caches before anybody asks for it"
    parser = _command(commands, "warmup", text)
    parser.add_argument("paths", metavar="PATH", nargs="*", help="a file or directory on a mount of EFC")
    parser.add_argument(
        "--list", metavar="FILE", help="a file with further paths, one on each line; - is standard input"
    )
    parser.add_argument(
        "--glob",
        metavar="PATTERN",
        action="append",
        default=[],
        help="of directories only files of such names, or paths below PATH if there is a / in it; may be repeated",
    )
    parser.add_argument("--jobs", type=_jobs, default=16, metavar="N", help="how many read at a time (%(default)s)")
    parser.add_argument("--limit-rate", type=_rate, default=0, metavar="SIZE/s", help="such as 100MiB/s (no limit)")
    parser.add_argument("--budget", type=_budget, default=0, metavar="SIZE", help="end after so much, such as 10GiB")
    parser.add_argument(
        "--passes",
        type=_count,
        default=5,
        metavar="N",
        help="read it so often at most, until caches alone have given all of it (%(default)s)",
    )
    parser.add_argument(
        "--no-resume", dest="resume", action="store_false", help="read also what an interrupted run has read"
    )
    parser.add_argument(
        "--to",
        choices=("local", "workers", "both"),
        default="both",
        help="fill this node's local store alone, or the workers alone (%(default)s)",
    )
    parser.add_argument("--force", action="store_true", help="also where there are no caches")
    parser.add_argument("--json", action="store_true", help="the summary as an object")
    parser.add_argument("--quiet", action="store_true", help="say only what failed")


def _add_upgrade(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = _command(commands, "upgrade", "replace running daemons by ones of this release; applications only wait")
    parser.add_argument("target", metavar="TARGET", nargs="?", help="of one mount")
    parser.add_argument("--all", action="store_true", help="all mounts, one after the other")
    _add_sources(parser)
    text = "with these options from now on, and the others as they are (docs/CONFIGURATION.md says which can change)"
    _add_options(parser, text)


def _add_metrics(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    _command(commands, "metrics", "print the metrics of what is mounted, as Prometheus reads them (docs/METRICS.md)")


def _add_doctor(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = _command(commands, "doctor", "find out what is wrong on this machine, and how to mend it")
    parser.add_argument("source", metavar="SOURCE", nargs="?", help="also try to reach this directory of a NAS")
    parser.add_argument("--json", action="store_true", help="as an array of objects")


def _add_worker(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    text = "run memcached here as a worker, whose memory nodes share"
    parser = _described(commands, "worker", text)
    parser.set_defaults(module="csi.cli.worker", worker_command=None)
    parser.add_argument(
        "--memory", type=_mebibytes, default=1024, metavar="SIZE", help="for what nodes put there (1GiB)"
    )
    parser.add_argument(
        "--disk",
        type=_disk,
        action="append",
        default=[],
        metavar="DIR=SIZE",
        help="for what memory has no room for: so much in a file of its own in a directory; may be repeated",
    )
    parser.add_argument("--listen", metavar="ADDRESS:PORT", default="127.0.0.1:11211", help="where (%(default)s)")
    parser.add_argument("--threads", type=_count, metavar="N", help="how many serve (one for each processor, up to 8)")
    parser.add_argument(
        "--connections", type=_count, default=16_384, metavar="N", help="how many at most (%(default)s)"
    )
    parser.add_argument(
        "--ready-file", type=Path, metavar="FILE", help="made anew as soon as the worker is as it is to be; empty"
    )
    for name, what in (
        ("certificate", "of this worker, with what leads to the nodes' authority"),
        ("key", "private, of the certificate"),
        ("ca", "the authority that signs the nodes' certificates"),
    ):
        parser.add_argument(f"--tls-{name}", type=Path, metavar="FILE", help=f"{what}; PEM")
    actions = parser.add_subparsers(metavar="key", dest="worker_command")
    key = actions.add_parser("key", help="write a new key for a data set into a new file, instead")
    key.add_argument("file", type=Path, metavar="FILE")
    _show_as_optional(parser, "key", "key FILE")


def _add_master(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    text = "serve one Dataset: tell its nodes what to do, and the operator how they do"
    parser = _described(commands, "master", text)
    parser.add_argument("--listen", metavar="ADDRESS:PORT", default="[::]:9810", help="where (%(default)s)")
    parser.add_argument(
        "--tls", type=Path, metavar="DIR", required=True, help="folder with ca.crt, tls.crt and tls.key"
    )
    parser.add_argument(
        "--state", type=Path, metavar="DIR", required=True, help="folder for what the next process goes on with"
    )
    parser.add_argument("--log-level", choices=("debug", "info", "warning", "error"), default="info")
    parser.set_defaults(module="csi.cli.master")


def _add_csi(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    services = _described(commands, "csi", "serve CSI to Kubernetes").add_subparsers(metavar="SERVICE", required=True)
    _add_csi_node(services)
    _add_csi_controller(services)
    _add_csi_probe(services)


def _add_csi_node(services: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = _command(services, "node", "serve Identity and Node on this node")
    parser.add_argument("--node-id", required=True, help="this node's name in Kubernetes")
    parser.add_argument(
        "--kubelet-root",
        metavar="DIR",
        action="append",
        default=[],
        help="targets must lie beneath it; may be repeated (/var/lib/kubelet)",
    )
    parser.add_argument(
        "--idle-grace",
        type=_seconds,
        default=30.0,
        metavar="SECONDS",
        help="how long a daemon outlives its last volume (%(default)g)",
    )
    parser.add_argument(
        "--registration-dir",
        metavar="DIR",
        help="kubelet's plugins_registry: register there, and end when kubelet refuses",
    )
    parser.add_argument(
        "--allowed-sources",
        type=Path,
        metavar="FILE",
        help="which namespaces may mount which sources inline, as JSON; read for every inline volume (none may)",
    )
    _add_serving(parser, service="node")


def _add_csi_controller(services: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = _command(services, "controller", "serve Identity and Controller")
    parser.add_argument(
        "--source",
        metavar="URL",
        action="append",
        required=True,
        help="a NAS directory on and beneath which volumes may be made; may be repeated",
    )
    _add_serving(parser, service="controller")


def _add_serving(parser: argparse.ArgumentParser, *, service: str) -> None:
    parser.set_defaults(module="csi.cli.serve", service=service)
    parser.add_argument("--endpoint", required=True, help="unix:///path of the socket to serve")
    parser.add_argument("--log-level", choices=("debug", "info", "warning", "error"), default="info")
    _add_metrics_address(parser)


def _add_metrics_address(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--metrics-address",
        metavar="ADDRESS:PORT",
        help="serve metrics there over HTTP, at /metrics (docs/METRICS.md)",
    )


def _add_csi_probe(services: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    probe = _described(services, "probe", "ask a CSI socket whether its process works")
    probe.add_argument("--endpoint", required=True, help="unix:///path of the socket")
    probe.add_argument("--alive", action="store_true", help="any answer will do, also that it is not ready")
    probe.add_argument(
        "--timeout", type=_seconds, default=3.0, metavar="SECONDS", help="how long to wait for it (%(default)g)"
    )
    probe.set_defaults(module="csi.cli.probe")


def _add_operator(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    text = "serve a cluster as a whole: Datasets and their runtimes, and startup taints of nodes"
    parser = _described(commands, "operator", text)
    parser.add_argument("--log-level", choices=("debug", "info", "warning", "error"), default="info")
    parser.add_argument("--liveness-address", metavar="ADDRESS:PORT", help="answer GET /healthz there")
    _add_metrics_address(parser)
    parser.add_argument("--image", metavar="IMAGE", help="of masters and workers; without it no Datasets are served")
    parser.add_argument(
        "--image-pull-policy",
        choices=("Always", "IfNotPresent", "Never"),
        default="IfNotPresent",
        help="of masters and workers (%(default)s)",
    )
    parser.add_argument(
        "--image-pull-secret",
        metavar="NAME",
        action="append",
        default=[],
        help="of masters and workers, a Secret in each Dataset's namespace; may be repeated",
    )
    parser.add_argument(
        "--allowed-sources",
        type=Path,
        metavar="FILE",
        help="which namespaces may name which sources in Datasets, as JSON; without it all may name all",
    )
    parser.add_argument(
        "--network-pod",
        action="store_true",
        help="each node has a pod efc-network: fuse.networkMode ContainerNetwork uses it",
    )
    parser.add_argument(
        "--namespace",
        metavar="NAMESPACE",
        default="",
        help="where the Lease is (the pod's own; outside of one efc-system)",
    )
    parser.add_argument(
        "--webhook", action="store_true", help="keep the certificate of the admission webhook, with Datasets"
    )
    parser.set_defaults(module="csi.cli.operator")


def _add_dataset(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    text = "the Datasets of a cluster: status, top, where, mounts, adopt (also as kubectl efc)"
    dataset_parser.add_commands(_described(commands, "dataset", text))


def _add_webhook(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    text = "tell the API server which affinity new pods get to the workers of their Datasets"
    parser = _described(commands, "webhook", text)
    parser.add_argument("--listen", metavar="ADDRESS:PORT", default="[::]:9443", help="where (%(default)s)")
    parser.add_argument(
        "--certificate", type=Path, metavar="DIR", required=True, help="folder of tls.crt and tls.key; they may change"
    )
    parser.add_argument("--log-level", choices=("debug", "info", "warning", "error"), default="info")
    parser.set_defaults(module="csi.cli.webhook")


def _add_in_use(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = _described(commands, "in-use", "fail while a cluster uses EFC, and say what does")
    parser.add_argument(
        "--again-after",
        type=_seconds,
        default=0.0,
        metavar="SECONDS",
        help="look once more so much later (%(default)g)",
    )
    parser.set_defaults(module="csi.cli.in_use")


def _add_clean_node(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    text = "remove what the driver leaves on a node, after its uninstallation"
    parser = _described(commands, "clean-node", text)
    parser.add_argument(
        "--run-dir", required=True, help="the node's run directory; its parent must be the node's as well"
    )
    parser.add_argument(
        "--kubelet-root", required=True, help="that of kubelet (its plugins and plugins_registry will do)"
    )
    parser.set_defaults(module="csi.cli.clean_node")


def _size(text: str) -> int:
    units = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
    digits, unit = text[:-3], text[-3:]
    if not (_is_number(digits) and int(digits) and unit in units):
        raise argparse.ArgumentTypeError("expected a whole number with unit KiB, MiB, GiB or TiB")
    return int(digits) * units[unit]


def _budget(text: str) -> int:
    if (size := _size(text)) < _BUDGET_BYTES_MIN:
        raise argparse.ArgumentTypeError("expected 1MiB, of which caches keep blocks, or more")
    return size


def _rate(text: str) -> int:
    if not text.endswith("/s"):
        raise argparse.ArgumentTypeError("expected a size per second, for example 100MiB/s")
    return _size(text.removesuffix("/s"))


def _jobs(text: str) -> int:
    if not (_is_number(text) and 1 <= int(text) <= _JOBS_MAX):
        raise argparse.ArgumentTypeError(f"expected a number, 1 to {_JOBS_MAX}")
    return int(text)


def _interval(text: str) -> float:
    for unit, seconds in (("ms", 0.001), ("s", 1.0), ("m", 60.0)):
        digits = text.removesuffix(unit)
        if digits != text and _is_number(digits):
            value = int(digits) * seconds
            if _INTERVAL_SECONDS_MIN <= value <= _INTERVAL_SECONDS_MAX:
                return value
    raise argparse.ArgumentTypeError("expected a whole number with unit ms, s or m, 100ms to 60m")


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < _DIGITS_MAX


def _mebibytes(text: str) -> int:
    units = {"MiB": 1, "GiB": 1024, "TiB": 1024 * 1024}
    digits, unit = text[:-3], text[-3:]
    if not (digits.isascii() and digits.isdecimal() and len(digits) < _DIGITS_MAX and unit in units):
        raise argparse.ArgumentTypeError("expected a whole number with unit MiB, GiB or TiB")
    return int(digits) * units[unit]


def _disk(text: str) -> tuple[Path, int]:
    directory, equals, size = text.rpartition("=")
    if not (equals and directory.startswith("/")):
        raise argparse.ArgumentTypeError("expected an absolute path, '=' and a size, for example /data/cache=100GiB")
    return Path(directory), _mebibytes(size)


def _count(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < _DIGITS_MAX and int(text) > 0):
        raise argparse.ArgumentTypeError("expected a number from 1 on")
    return int(text)


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 <= seconds <= _IDLE_GRACE_SECONDS_MAX:
        raise argparse.ArgumentTypeError("expected 0 to 86400 seconds")
    return seconds
