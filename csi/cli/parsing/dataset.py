"""The command line of ``efc dataset`` and ``kubectl efc``: made for every command of ``efc``."""

import argparse

from csi.cli.parsing.base import Commands, described


def add_commands(parser: argparse.ArgumentParser) -> None:
    """The subcommands, which :mod:`csi.cli.dataset` runs."""
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    status = _add(commands, "status", "how Datasets do, and what is wrong with them")
    status.add_argument("name", metavar="NAME", nargs="?", help="everything about this one, its conditions as well")
    _add_all_namespaces(status)
    top = _add(commands, "top", "which Datasets have the most in their caches, and what good it does")
    top.add_argument(
        "--sort", choices=("cached", "size", "used", "hits"), default="cached", help="the most first (%(default)s)"
    )
    _add_all_namespaces(top)
    where = _add(commands, "where", "where a Dataset is cached: its workers, their nodes, what each holds")
    where.add_argument("name", metavar="NAME")
    mounts = _add(commands, "mounts", "which pods use a Dataset, on which nodes")
    mounts.add_argument("name", metavar="NAME")
    text = "take finalizers off that a Fluid left which is removed: they keep Datasets from being deleted"
    adopt = _add(commands, "adopt", text)
    adopt.add_argument("names", metavar="NAME", nargs="+", help="of a Dataset, of its EFCRuntime, or of both")


def _add(commands: Commands, name: str, text: str) -> argparse.ArgumentParser:
    parser = described(commands, name, text)
    parser.add_argument("-n", "--namespace", metavar="NAMESPACE", help="of the Dataset (the context's)")
    parser.add_argument("--context", metavar="NAME", help="of the kubeconfig (the current one)")
    parser.add_argument("--kubeconfig", metavar="FILE", help="instead of KUBECONFIG and ~/.kube/config")
    parser.add_argument("--json", action="store_true", help="as an array of objects")
    parser.set_defaults(module="csi.cli.dataset", work=name)
    return parser


def _add_all_namespaces(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-A", "--all-namespaces", action="store_true", help="of all namespaces")
