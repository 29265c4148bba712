"""The command lines of what runs on a host, with Kubernetes and without."""

import argparse
from pathlib import Path

from csi.cli.parsing.base import Commands, add_options, command, described, show_as_optional
from csi.cli.parsing.values import budget, count, disk, interval, jobs, mebibytes, rate


def add_commands(commands: Commands) -> None:
    """Adds them, in the order in which the help shows them."""
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
    commands.add_parser("fs", help="work on a NAS without mounting it (efc fs --help)", add_help=False)


def _add_mount(commands: Commands) -> None:
    parser = command(commands, "mount", "mount a directory of a NAS; returns when the mount can be used")
    parser.usage = "efc mount [SOURCE] TARGET [--source PATH=SOURCE ...] [-o OPTIONS] [--mkdir] [--running-keeper]"
    places = "SOURCE: nfs://HOST[:PORT]/PATH[?mountport=PORT], unless --source gives it; TARGET: a directory"
    parser.add_argument("places", metavar="[SOURCE] TARGET", nargs="+", help=places)
    _add_sources(parser)
    parser.add_argument("--mkdir", action="store_true", help="make TARGET if it is missing, as mount(8) does")
    text = "do not start a keeper, but wait for one, 10 s at most: for service managers, which start it (docs/HOST.md)"
    parser.add_argument("--running-keeper", action="store_true", help=text)
    add_options(parser, "mount options (see docs/CONFIGURATION.md)")


def _add_sources(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--source",
        metavar="PATH=SOURCE",
        dest="sources",
        action="append",
        default=[],
        help="a source that appears at PATH below TARGET; may be repeated",
    )
    parser.add_argument(
        "--read-only-source",
        metavar="PATH=SOURCE",
        dest="read_only_sources",
        action="append",
        default=[],
        help="the same, mounted read-only; may be repeated",
    )


def _add_umount(commands: Commands) -> None:
    parser = command(commands, "umount", "unmount targets and end their daemons")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("targets", metavar="TARGET", nargs="*", default=[], help="where it is mounted")
    which.add_argument("--all", action="store_true", help="all mounts of the keeper, unless pods use any of them")
    parser.add_argument(
        "--force", action="store_true", help="even if it is in use or hangs: applications that use it get errors"
    )


def _add_status(commands: Commands) -> None:
    parser = command(commands, "status", "show the mounts and their state")
    parser.epilog = (
        "STATE: serving; starting; restarting (a daemon is being replaced); unresponsive nas (the NAS does "
        "not answer); aborted (unmount it, and mount it again). RESTARTS: number of daemons that were "
        "replaced. READ and WRITTEN: bytes from and to the NAS since the mount was made; reads from caches "
        "are not included (efc top shows them). REASON: what is wrong, and why the last daemon died, until "
        "the mount ends."
    )
    parser.add_argument("--json", action="store_true", help="print an array of JSON objects")


def _add_cache(commands: Commands) -> None:
    parser = command(commands, "cache", "show the local stores of this node, or remove some")
    parser.add_argument("--json", action="store_true", help="print an array of JSON objects")
    parser.add_argument(
        "--directory",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="directory that contains stores; may be repeated (default: the directories of mounts' stores, and "
        "/var/cache/efc)",
    )
    actions = parser.add_subparsers(metavar="clear", dest="cache_command")
    clear = actions.add_parser(
        "clear", help="remove stores that no mount uses", description="Remove stores that no mount uses."
    )
    which = clear.add_mutually_exclusive_group(required=True)
    which.add_argument("--unused", action="store_true", help="all stores that no mount uses")
    which.add_argument("stores", nargs="*", default=[], metavar="STORE", help="a store's full path, name or source")
    clear.add_argument(
        "--days",
        type=count,
        default=0,
        metavar="N",
        help="with --unused: only stores that nobody has used for N days",
    )
    show_as_optional(parser, "clear", "clear STORE ... | clear --unused")


def _add_top(commands: Commands) -> None:
    parser = command(commands, "top", "show what each mount reads and writes per second, and from where; q quits")
    parser.add_argument(
        "--interval",
        type=interval,
        default=2.0,
        metavar="TIME",
        help="time between two updates, such as 500ms or 10s (2s)",
    )
    parser.add_argument("--once", action="store_true", help="show one interval, and exit")
    parser.add_argument(
        "--json", action="store_true", help="print an array of JSON objects on one line for each interval"
    )


def _add_warmup(commands: Commands) -> None:
    text = "read data once, to fill the dataset's caches before anybody asks for it"
    parser = command(commands, "warmup", text)
    parser.add_argument("paths", metavar="PATH", nargs="*", help="a file or directory on a mount of EFC")
    parser.add_argument("--list", metavar="FILE", help="a file with further paths, one per line; - is standard input")
    parser.add_argument(
        "--glob",
        metavar="PATTERN",
        action="append",
        default=[],
        help="in directories, read only files whose name matches, or whose path below PATH matches if PATTERN "
        "has a /; may be repeated",
    )
    parser.add_argument("--jobs", type=jobs, default=16, metavar="N", help="number of concurrent reads (%(default)s)")
    parser.add_argument(
        "--limit-rate", type=rate, default=0, metavar="SIZE/s", help="rate limit, such as 100MiB/s (none)"
    )
    parser.add_argument("--budget", type=budget, default=0, metavar="SIZE", help="stop after this much, such as 10GiB")
    parser.add_argument(
        "--passes",
        type=count,
        default=5,
        metavar="N",
        help="maximum number of passes: the first reads, the others ask caches for all of it (%(default)s)",
    )
    parser.add_argument(
        "--no-resume", dest="resume", action="store_false", help="also read what an interrupted run has already read"
    )
    parser.add_argument(
        "--to",
        choices=("local", "workers", "both"),
        default="both",
        help="fill only this node's local store, only the workers, or all caches (%(default)s)",
    )
    parser.add_argument("--force", action="store_true", help="read even if the mount has no caches")
    parser.add_argument("--json", action="store_true", help="print the summary as a JSON object")
    parser.add_argument("--quiet", action="store_true", help="print failures only")


def _add_upgrade(commands: Commands) -> None:
    parser = command(
        commands, "upgrade", "replace running daemons by ones of this release; applications see a short pause"
    )
    parser.add_argument("target", metavar="TARGET", nargs="?", help="the target of one mount")
    parser.add_argument("--all", action="store_true", help="all mounts, one after the other")
    _add_sources(parser)
    text = "options to change from now on; others stay as they are (docs/CONFIGURATION.md says which can change)"
    add_options(parser, text)


def _add_metrics(commands: Commands) -> None:
    command(commands, "metrics", "print the metrics of all mounts, in Prometheus' format (docs/METRICS.md)")


def _add_doctor(commands: Commands) -> None:
    parser = command(commands, "doctor", "find out what is wrong on this machine, and how to fix it")
    parser.add_argument("source", metavar="SOURCE", nargs="?", help="also try to reach this directory of a NAS")
    parser.add_argument("--json", action="store_true", help="print an array of JSON objects")


def _add_worker(commands: Commands) -> None:
    text = "run memcached as a worker, whose memory the nodes share"
    parser = described(commands, "worker", text)
    parser.set_defaults(module="csi.cli.worker", worker_command=None)
    parser.add_argument(
        "--memory", type=mebibytes, default=1024, metavar="SIZE", help="memory for the blocks that nodes store (1GiB)"
    )
    parser.add_argument(
        "--disk",
        type=disk,
        action="append",
        default=[],
        metavar="DIR=SIZE",
        help="disk space for blocks that memory has no room for: a file of SIZE in DIR; may be repeated",
    )
    parser.add_argument(
        "--listen", metavar="ADDRESS:PORT", default="127.0.0.1:11211", help="address to listen at (%(default)s)"
    )
    parser.add_argument(
        "--threads", type=count, metavar="N", help="number of threads (one for each processor, up to 8)"
    )
    parser.add_argument(
        "--connections", type=count, default=16_384, metavar="N", help="maximum number of connections (%(default)s)"
    )
    parser.add_argument(
        "--ready-file",
        type=Path,
        metavar="FILE",
        help="empty file that is created, or replaced, when the worker is ready",
    )
    for name, what in (
        ("certificate", "certificate of this worker, with its chain to the nodes' authority"),
        ("key", "private key of the certificate"),
        ("ca", "certificate of the authority that signs the nodes' certificates"),
    ):
        parser.add_argument(f"--tls-{name}", type=Path, metavar="FILE", help=f"{what}; PEM")
    actions = parser.add_subparsers(metavar="key", dest="worker_command")
    key = actions.add_parser("key", help="write a new key for a data set into a new file")
    key.add_argument("file", type=Path, metavar="FILE")
    show_as_optional(parser, "key", "key FILE")
