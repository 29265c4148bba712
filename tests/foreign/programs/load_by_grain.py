"""Grain's DataLoader with worker processes over a folder of samples, two epochs."""

import hashlib
import os
import sys
from pathlib import Path

import grain.python as grain

COUNT, EPOCHS = 400, 2


class Samples:
    """Files of a digest and what it is of."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, number: int) -> int:
        data = (self.folder / f"{number % 10}" / f"{number}.bin").read_bytes()
        assert hashlib.sha256(data[32:]).digest() == data[:32], number
        return number


def main() -> None:
    folder = Path(sys.argv[1]) / "samples"
    for number in range(COUNT):
        path = folder / f"{number % 10}" / f"{number}.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        data = os.urandom(5_000 + number * 97)
        path.write_bytes(hashlib.sha256(data).digest() + data)
    sampler = grain.IndexSampler(COUNT, shuffle=True, seed=7, num_epochs=EPOCHS, shard_options=grain.NoSharding())
    loader = grain.DataLoader(data_source=Samples(folder), sampler=sampler, worker_count=4, worker_buffer_size=8)
    seen = sorted(int(number) for number in loader)
    assert seen == sorted(list(range(COUNT)) * EPOCHS), len(seen)
    print("all as written")


if __name__ == "__main__":
    main()
