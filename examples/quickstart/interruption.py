"""A reader that goes on whatever happens, and measures what an interruption costs it."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from examples.quickstart.content import MIB, part


@dataclass(kw_only=True)
class PatientReader:
    """Reads a file once from front to back in megabytes, opening it anew after an error, and takes its checksum.

    With `name`, which says what the file holds (see `content.part`), wrong bytes are counted too.
    """

    path: Path
    size: int
    name: str | None
    give_up_s: float = 60.0

    done_bytes: int = 0
    wrong_bytes: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    stall_ms_max: float = 0.0
    _digest: hashlib._Hash = field(default_factory=hashlib.sha256)

    @property
    def checksum(self) -> str:
        """SHA-256 of what was read."""
        return self._digest.hexdigest()

    def run(self) -> None:
        """Reads to the end, or until nothing came for `give_up_s`."""
        descriptor = -1
        last = time.monotonic()
        while self.done_bytes < self.size and time.monotonic() - last < self.give_up_s:
            try:
                if descriptor < 0:
                    descriptor = os.open(self.path, os.O_RDONLY)
                data = os.pread(descriptor, MIB, self.done_bytes)
            except OSError as error:
                self._note_error(error)
                descriptor = self._close(descriptor)
                time.sleep(0.005)
                continue
            now = time.monotonic()
            self.stall_ms_max = max(self.stall_ms_max, (now - last) * 1000)
            if not data:
                self.errors["end of file too early"] = 1
                break
            self._compare(data)
            last = time.monotonic()
        self._close(descriptor)

    def _compare(self, data: bytes) -> None:
        data = data[: self.size - self.done_bytes]
        self._digest.update(data)
        if self.name is not None:
            place = self.done_bytes % MIB
            expected = part(self.name, self.done_bytes // MIB)[place : place + len(data)]
            data = data[: len(expected)]
            if data != expected:
                self.wrong_bytes += sum(one != other for one, other in zip(data, expected, strict=True))
        self.done_bytes += len(data)

    def _note_error(self, error: OSError) -> None:
        name = os.strerror(error.errno or 0)
        self.errors[name] = self.errors.get(name, 0) + 1

    @staticmethod
    def _close(descriptor: int) -> int:
        if descriptor >= 0:
            with suppress(OSError):  # of a connection that is gone; the descriptor is closed all the same
                os.close(descriptor)
        return -1

    def start(self) -> threading.Thread:
        """Reads in a thread of its own."""
        thread = threading.Thread(target=self.run, daemon=True)
        thread.start()
        return thread
