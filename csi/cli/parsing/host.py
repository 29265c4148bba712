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
    parser = command(commands, "mount", "mount a directory of a NAS; returns when it can be used")
    parser.usage = "efc mount [SOURCE] TARGET [--source PATH=SOURCE ...] [-o OPTIONS] [--mkdir] [--running-keeper]"
    places = "nfs://HOST[:PORT]/PATH[?mountport=PORT], unless it is given by --source; and a directory"
    parser.add_argument("places", metavar="[SOURCE] TARGET", nargs="+", help=places)
    _add_sources(parser)
    parser.add_argument("--mkdir", action="store_true", help="make TARGET if it is missing, as mount(8) does")
    text = "start no keeper, but wait for one, 10 s at most: a service manager starts it (docs/HOST.md)"
    parser.add_argument("--running-keeper", action="store_true", help=text)
    add_options(parser, "mount options (see docs/CONFIGURATION.md)")


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


def _add_umount(commands: Commands) -> None:
    parser = command(commands, "umount", "unmount targets and end their daemons")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("targets", metavar="TARGET", nargs="*", default=[], help="where it is mounted")
    which.add_argument("--all", action="store_true", help="all that the keeper has mounted, where no pods use it")
    parser.add_argument("--force", action="store_true", help="also when it is in use or hangs: its users get errors")


def _add_status(commands: Commands) -> None:
    parser = command(commands, "status", "show what is mounted, and how it does")
    parser.epilog = (
        "STATE: serving; starting; restarting, a daemon is replaced; unresponsive nas, which does not answer; aborted, "
        "of no use any more. RESTARTS: daemons that were replaced. READ and WRITTEN: bytes from and to the NAS since "
        "it was mounted, so what caches gave is in neither (efc top shows that). REASON: what is not as it should be, "
        "and why the last daemon died, until the mount ends."
    )
    parser.add_argument("--json", action="store_true", help="as an array of objects")


def _add_cache(commands: Commands) -> None:
    parser = command(commands, "cache", "show the local stores of this node, or remove some")
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
        "--days",
        type=count,
        default=0,
        metavar="N",
        help="with --unused: those that nobody has used for so long",
    )
    show_as_optional(parser, "clear", "clear STORE ... | clear --unused")


def _add_top(commands: Commands) -> None:
    parser = command(commands, "top", "show what each mount reads and writes per second, and from where; q ends it")
    parser.add_argument(
        "--interval",
        type=interval,
        default=2.0,
        metavar="TIME",
        help="between two looks, such as 500ms or 10s (2s)",
    )
    parser.add_argument("--once", action="store_true", help="one interval, and end")
    parser.add_argument("--json", action="store_true", help="an array of objects, on a line of its own each time")


def _add_warmup(commands: Commands) -> None:
    text = "read data once, so that it lies in the dataset's caches before anybody asks for it"
    parser = command(commands, "warmup", text)
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
    parser.add_argument("--jobs", type=jobs, default=16, metavar="N", help="how many read at a time (%(default)s)")
    parser.add_argument("--limit-rate", type=rate, default=0, metavar="SIZE/s", help="such as 100MiB/s (no limit)")
    parser.add_argument("--budget", type=budget, default=0, metavar="SIZE", help="end after so much, such as 10GiB")
    parser.add_argument(
        "--passes",
        type=count,
        default=5,
        metavar="N",
        help="passes at most: one that reads, and others that ask caches for all of it (%(default)s)",
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


def _add_upgrade(commands: Commands) -> None:
    parser = command(commands, "upgrade", "replace running daemons by ones of this release; applications only wait")
    parser.add_argument("target", metavar="TARGET", nargs="?", help="of one mount")
    parser.add_argument("--all", action="store_true", help="all mounts, one after the other")
    _add_sources(parser)
    text = "with these options from now on, and the others as they are (docs/CONFIGURATION.md says which can change)"
    add_options(parser, text)


def _add_metrics(commands: Commands) -> None:
    command(commands, "metrics", "print the metrics of what is mounted, as Prometheus reads them (docs/METRICS.md)")


def _add_doctor(commands: Commands) -> None:
    parser = command(commands, "doctor", "find out what is wrong on this machine, and how to mend it")
    parser.add_argument("source", metavar="SOURCE", nargs="?", help="also try to reach this directory of a NAS")
    parser.add_argument("--json", action="store_true", help="as an array of objects")


def _add_worker(commands: Commands) -> None:
    text = "run memcached here as a worker, whose memory nodes share"
    parser = described(commands, "worker", text)
    parser.set_defaults(module="csi.cli.worker", worker_command=None)
    parser.add_argument(
        "--memory", type=mebibytes, default=1024, metavar="SIZE", help="for what nodes put there (1GiB)"
    )
    parser.add_argument(
        "--disk",
        type=disk,
        action="append",
        default=[],
        metavar="DIR=SIZE",
        help="for what memory has no room for: so much in a file of its own in a directory; may be repeated",
    )
    parser.add_argument("--listen", metavar="ADDRESS:PORT", default="127.0.0.1:11211", help="where (%(default)s)")
    parser.add_argument("--threads", type=count, metavar="N", help="how many serve (one for each processor, up to 8)")
    parser.add_argument("--connections", type=count, default=16_384, metavar="N", help="how many at most (%(default)s)")
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
    show_as_optional(parser, "key", "key FILE")
