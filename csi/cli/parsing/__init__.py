"""The parsers of the command lines. Every command builds all of them, so they import little."""

import argparse

from csi.cli.parsing import cluster, dataset, host
from csi.cli.parsing.base import Parser, Version


def parser() -> argparse.ArgumentParser:
    """That of ``efc``."""
    parser: argparse.ArgumentParser = Parser(
        prog="efc", description="A NAS directory as a POSIX file system, and as Kubernetes volumes."
    )
    parser.add_argument("--version", action=Version, nargs=0, help="print the version")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    host.add_commands(commands)
    cluster.add_commands(commands)
    return parser


def kubectl_parser() -> argparse.ArgumentParser:
    """That of ``kubectl efc``."""
    parser: argparse.ArgumentParser = Parser(
        prog="kubectl efc", description="The Datasets of a cluster that EFC serves."
    )
    parser.add_argument("--version", action=Version, nargs=0, help="print the version")
    dataset.add_commands(parser)
    return parser
