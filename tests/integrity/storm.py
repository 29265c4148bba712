"""Things die at random moments while a block of code runs."""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

Blow = Callable[[], object]


@dataclass(kw_only=True)
class Storm:
    """What was done so far: how often each blow fell, and the first error of one, which ends the storm."""

    counts: dict[str, int] = field(default_factory=dict)
    error: BaseException | None = None

    def __str__(self) -> str:
        return ", ".join(f"{count} x {name}" for name, count in self.counts.items()) or "calm"


@contextmanager
def storm(blows: Mapping[str, Blow], *, seed: int, pause_s: tuple[float, float] = (0.5, 3.0)) -> Iterator[Storm]:
    """Strikes `blows` in turn, each after a pause of random length, until the block ends.

    A blow returns when what it killed is back. The block's end waits for the last one. Raises what a blow raised.
    """
    record = Storm(counts=dict.fromkeys(blows, 0))
    over = threading.Event()
    choice = random.Random(seed)

    def rage() -> None:
        try:
            for name in itertools.cycle(blows):
                if over.wait(choice.uniform(*pause_s)):
                    return
                blows[name]()
                record.counts[name] += 1
        except BaseException as error:
            record.error = error

    thread = threading.Thread(target=rage, name="storm", daemon=True)
    thread.start()
    try:
        yield record
    finally:
        over.set()
        thread.join(60)
    if record.error is not None:
        raise record.error
    assert not thread.is_alive(), "the storm did not end in 60 s"
