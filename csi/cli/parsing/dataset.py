"""The command line of ``efc dataset`` and ``kubectl efc``: made for every command of ``efc``."""

import argparse

from csi.cli.parsing.base import Commands, described


def add_commands(parser: argparse.ArgumentParser) -> None:
    """The subcommands, which :mod:`csi.cli.dataset` runs."""
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    status = _add(commands, "status", "show the state of Datasets, and what is wrong with them")
    status.add_argument(
        "name", metavar="NAME", nargs="?", help="show everything about this Dataset, including its conditions"
    )
    _add_all_namespaces(status)
    top = _add(commands, "top", "show which Datasets have the most data in their caches, and their hit ratios")
    top.add_argument(
        "--sort",
        choices=("cached", "size", "used", "hits"),
        default="cached",
        help="sort by this figure, largest first (%(default)s)",
    )
    _add_all_namespaces(top)
    where = _add(commands, "where", "show where a Dataset is cached: its workers, their nodes, and how much each holds")
    where.add_argument("name", metavar="NAME")
    mounts = _add(commands, "mounts", "show which pods use a Dataset, on which nodes")
    mounts.add_argument("name", metavar="NAME")
    text = "remove finalizers that a removed Fluid has left: they prevent the deletion of Datasets"
    adopt = _add(commands, "adopt", text)
    adopt.add_argument("names", metavar="NAME", nargs="+", help="name of a Dataset, of its EFCRuntime, or of both")


def _add(commands: Commands, name: str, text: str) -> argparse.ArgumentParser:
    parser = described(commands, name, text)
    parser.add_argument("-n", "--namespace", metavar="NAMESPACE", help="namespace of the Dataset (the context's)")
    parser.add_argument("--context", metavar="NAME", help="context of the kubeconfig (the current one)")
    parser.add_argument(
        "--kubeconfig", metavar="FILE", help="kubeconfig to use instead of KUBECONFIG and ~/.kube/config"
    )
    parser.add_argument("--json", action="store_true", help="print an array of JSON objects")
    parser.set_defaults(module="csi.cli.dataset", work=name)
    return parser


def _add_all_namespaces(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-A", "--all-namespaces", action="store_true", help="show the Datasets of all namespaces")
