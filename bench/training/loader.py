"""A training's data loader, as a process: it lists a folder as ImageFolder does, and reads all files in each epoch.

    loader.py FOLDER --directories 100 --epochs 5 --readers 8

The order is another in each epoch, and the same for whoever is compared. Readers are the worker processes of torch's
DataLoader, which stay from epoch to epoch, or, where there is no torch, a pool of processes that is given the same
batches. What a reader hands over is how much it read: decoding and training would be the same work for everybody, and
are left out. Whichever Python has torch runs this, so it imports nothing of ours.

It prints a line of JSON when it has started, when the folder is listed, and after each epoch, and after each line it
waits for one of its input.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import sys
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

Batch = list[int]


@dataclass(kw_only=True)
class Batches:
    """The numbers of all files in batches, in another order whenever they are gone through."""

    files: int
    size: int
    seed: int
    epoch: int = 0

    def __len__(self) -> int:
        return (self.files + self.size - 1) // self.size

    def __iter__(self) -> Iterator[Batch]:
        order = list(range(self.files))
        random.Random(f"{self.seed}/{self.epoch}").shuffle(order)
        self.epoch += 1
        return (order[first : first + self.size] for first in range(0, self.files, self.size))


@dataclass(frozen=True)
class Samples:
    """What torch calls a map-style data set: sample number `n` is what is in file number `n`."""

    paths: Sequence[str]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> int:
        with open(self.paths[number], "rb") as file:
            return len(file.read())

    def read(self, batch: Batch) -> tuple[int, int]:
        """Files and bytes of a batch."""
        return count([self[number] for number in batch])


def count(sizes: Sequence[int]) -> tuple[int, int]:
    """Files and bytes."""
    return len(sizes), sum(sizes)


def list_files(folder: str, directories: int) -> list[str]:
    """All files of the first so many directories, in order."""
    found: list[str] = []
    for name in sorted(os.listdir(folder))[:directories]:
        directory = os.path.join(folder, name)
        found.extend(sorted(os.path.join(directory, file) for file in os.listdir(directory)))
    return found


def epochs_of_torch(samples: Samples, batches: Batches, readers: int) -> Iterator[Iterable[tuple[int, int]]]:
    """Epochs without end, of what is read in each. Raises ImportError without torch."""
    from torch.utils.data import DataLoader  # type: ignore[import-not-found]

    warnings.filterwarnings("ignore", "This DataLoader will create")
    loader = DataLoader(
        samples, batch_sampler=batches, num_workers=readers, persistent_workers=True, collate_fn=count
    )  # fmt: skip
    while True:
        yield loader


def epochs_of_pool(samples: Samples, batches: Batches, readers: int) -> Iterator[Iterable[tuple[int, int]]]:
    """The same without torch."""
    with multiprocessing.get_context("fork").Pool(readers) as pool:
        while True:
            yield pool.imap(samples.read, batches)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("--directories", type=int, required=True)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--first-epoch", type=int, default=0, help="of a training that goes on")
    parser.add_argument("--readers", type=int, required=True)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    try:
        import torch.utils.data  # type: ignore[import-not-found]  # noqa: F401

        start, name = epochs_of_torch, "torch's DataLoader"
    except ImportError:
        start, name = epochs_of_pool, "a pool of processes"
    _say({"loader": name})
    sys.stdin.readline()
    began = time.monotonic()
    paths = list_files(arguments.folder, arguments.directories)
    _say({"seconds": time.monotonic() - began, "files": len(paths), "bytes": 0})
    batches = Batches(files=len(paths), size=arguments.batch, seed=arguments.seed, epoch=arguments.first_epoch)
    epochs = start(Samples(paths), batches, arguments.readers)
    for _ in range(arguments.epochs):
        sys.stdin.readline()
        began = time.monotonic()
        files, size = (sum(column) for column in zip(*next(epochs), strict=True))
        _say({"seconds": time.monotonic() - began, "files": files, "bytes": size})
    sys.stdin.readline()  # its processes are there until the bench has counted what they took


def _say(found: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(found) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
