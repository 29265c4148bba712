"""What the parsers of all commands have in common."""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import TypeAlias

from csi.base import driver

_RUN_DIR = "/run/efc"
#: What subcommands are added to.
Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # noqa: SLF001  # it has no other name


class Parser(argparse.ArgumentParser):
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


class Version(argparse.Action):
    """The action of ``--version``: looks the version up only when it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object, **__: object) -> None:
        """Prints it, and ends the program."""
        print(f"efc {driver.version()}")
        parser.exit(0)


def show_as_optional(parser: argparse.ArgumentParser, subcommand: str, form: str) -> None:
    """Has the usage show the subcommand as one that there need not be. Called when the parser has all options."""
    usage = parser.format_usage().removeprefix("usage: ").rstrip()
    parser.usage = usage.replace(f"{subcommand} ...", f"[{form}]")


def described(commands: Commands, name: str, text: str) -> argparse.ArgumentParser:
    """Adds a command, with what it does in words that begin small and end without a full stop."""
    return commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")


def command(commands: Commands, name: str, text: str) -> argparse.ArgumentParser:
    """Adds a command that talks with the keeper, and is run by the module of its name."""
    parser = described(commands, name, text)
    parser.add_argument(
        "--run-dir",
        type=_run_dir,
        default=os.environ.get("RUN_DIR") or _RUN_DIR,
        help="where the keeper's socket is (environment: RUN_DIR; %(default)s)",
    )
    parser.set_defaults(module=f"csi.cli.{name}")
    return parser


def _run_dir(text: str) -> str:
    """Absolute: a keeper that is started works elsewhere."""
    if not text:
        raise argparse.ArgumentTypeError("it is empty")
    return os.path.abspath(text)


def add_options(parser: argparse.ArgumentParser, text: str) -> None:
    """Adds ``-o``, as mount(8) has it."""
    parser.add_argument(
        "-o", dest="options", metavar="NAME[=VALUE],...", action="append", default=[], help=text
    )  # fmt: skip
