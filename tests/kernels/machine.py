"""An emulated machine: a kernel that boots on this machine's root directory, runs one command, and is gone.

By hand, as root: `python -m tests.kernels.machine VERSION COMMAND`, a line of shell that runs in the checkout.

What the command writes outside of the shared folder is kept in the guest's memory only. There is no network but the
guest's own loopback. Times in there mean nothing: everything takes 10 to 50 times as long. /dev/kvm is not used: on a
machine that is virtual itself a guest may hang in it before it boots.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tests.support.paths import RESULTS, ROOT

_FOLDER = ROOT / ".tools" / "kernels"
_HERE = ROOT / "tests" / "kernels"
_MEMORY_MIB = 3072
_PROCESSORS = 2
#: Of the guest's first line; what comes before is its firmware's.
_FIRST_WORDS = "guest: "
_LINES_KEPT = 40
_LIMIT_BY_HAND_S = 4 * 3600


class MachineError(RuntimeError):
    """The guest ended without the command's exit status, or did not end in time; the message has its last lines."""


class NotHereError(RuntimeError):
    """What the machine consists of cannot be had on this one; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """A kernel that can be booted."""

    version: str
    folder: Path

    @classmethod
    def get(cls, version: str) -> Kernel:
        """Fetches it and QEMU, unless they are there. Raises NotHereError; CalledProcessError if setup itself fails."""
        setup = subprocess.run([_HERE / "setup", version], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
        sys.stdout.write(setup.stdout)
        if setup.returncode == 77:
            raise NotHereError(setup.stdout.strip().rpartition("\n")[2])
        setup.check_returncode()
        return cls(version=version, folder=_FOLDER / version)

    def run(self, command: str, *, share: Path, limit_s: float) -> int:
        """Boots, runs a line of shell in the checkout and prints what it says; its exit status. Raises MachineError.

        `share` is a folder, which the guest has at results/.
        """
        (share / "command").write_text(f"{command}\n")
        (share / "modules").write_text(f"{self.folder}/lib/modules\n")
        last: list[str] = []
        is_up = False
        with _emulator(self._command(share), limit_s=limit_s) as (console, is_past_limit):
            for line in console:
                text = line.rstrip("\r\n")
                if not is_up and _FIRST_WORDS in text:
                    is_up, text = True, text[text.index(_FIRST_WORDS) :]
                if is_up:
                    print(text, flush=True)
                last = [*last[1 - _LINES_KEPT :], text]
        if is_past_limit.is_set():
            raise MachineError(f"Linux {self.version} did not end within {limit_s:.0f} s")
        if not (share / "status").exists():
            raise MachineError(f"Linux {self.version} ended before the command did:\n" + "\n".join(last))
        return int((share / "status").read_text())

    def _command(self, share: Path) -> list[str]:
        [image] = (self.folder / "boot").glob("vmlinuz-*")
        command_line = f"console=ttyS0 quiet panic=-1 mitigations=off guest={_HERE / 'guest'}"
        return [
            # Whatever becomes of this process, the emulator ends with it.
            "setpriv", "--pdeathsig", "KILL", "--",
            "qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max",
            "-smp", str(_PROCESSORS), "-m", str(_MEMORY_MIB),
            "-nodefaults", "-nographic", "-no-reboot", "-serial", "stdio",
            "-kernel", str(image), "-initrd", str(self.folder / "initramfs"), "-append", command_line,
            "-fsdev", "local,id=host,path=/,security_model=none,readonly=on,multidevs=remap",
            "-device", "virtio-9p-pci,fsdev=host,mount_tag=host",
            "-fsdev", f"local,id=share,path={share},security_model=none",
            "-device", "virtio-9p-pci,fsdev=share,mount_tag=share",
        ]  # fmt: skip


@contextmanager
def _emulator(command: list[str], *, limit_s: float) -> Iterator[tuple[IO[str], threading.Event]]:
    """The console of a guest, and whether it was killed at its limit. It is gone when the block ends."""
    is_past_limit = threading.Event()
    emulator = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )

    def stop() -> None:
        is_past_limit.set()
        emulator.kill()

    timer = threading.Timer(limit_s, stop)
    timer.start()
    assert emulator.stdout is not None
    try:
        yield emulator.stdout, is_past_limit
    finally:
        timer.cancel()
        timer.join()
        emulator.kill()
        emulator.wait(60)
        emulator.stdout.close()


def main(version: str, command: str) -> int:
    """The command's exit status. What it leaves in its results/ is in results/guest afterwards."""
    share = RESULTS / "guest"
    shutil.rmtree(share, ignore_errors=True)
    share.mkdir(parents=True)
    return Kernel.get(version).run(command, share=share, limit_s=_LIMIT_BY_HAND_S)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
