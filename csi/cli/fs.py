"""``efc fs``: the NAS without a mount, by the program efc-fs, which takes this process over."""

import argparse
import os

from csi.base import programs


def run(parsed: argparse.Namespace) -> int:
    """Runs efc-fs in place of this process; returns only if the program cannot be started, by an error."""
    program = programs.find(programs.NAS_CLIENT)
    os.execv(program, [programs.NAS_CLIENT, *parsed.arguments])  # no shell is what is wanted
