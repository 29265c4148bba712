"""Ctrl-C ends a command whatever it does at that moment."""

from __future__ import annotations

import subprocess
import sys

_COMMAND = """
import asyncio, os, signal, sys, types
from csi import cli

async def ends():
    loop = asyncio.get_running_loop()
    answer = loop.create_future()
    loop.call_soon(lambda: (answer.set_result(None), os.kill(os.getpid(), signal.SIGINT)))
    await asyncio.wait_for(answer, 10)

command = types.ModuleType("command")
command.run = lambda _parsed: asyncio.run(ends()) or 0
sys.modules["command"] = command
sys.exit(cli._run("command", None))
"""


def test_an_interrupt_is_heard_that_comes_when_a_question_to_the_keeper_ends() -> None:
    done = subprocess.run([sys.executable, "-c", _COMMAND], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (130, "")
