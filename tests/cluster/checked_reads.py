"""Files of a Dataset with their digests, and a shell script that reads them all the time and compares."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from tests.cluster.test_dataset_quickstart import old

#: Reads all files again and again, past the page cache, and compares each with its digest.
READING = """
cd /data
turns=0 errors=0
while [ ! -e /tmp/stop ]; do
    for file in *.bin; do dd if=$file iflag=nocache count=0 2>/dev/null || errors=$((errors + 1)); done
    sha256sum --quiet -c sums || errors=$((errors + 1))
    turns=$((turns + 1))
    echo "$turns $errors" >/tmp/state.new && mv /tmp/state.new /tmp/state
done
sleep infinity
"""


def write_checked_files(folder: Path, *, count: int, size: int) -> None:
    """So many files, old enough to be cached, and ``sums`` with their digests."""
    sums = []
    for number in range(count):
        content = os.urandom(size)
        path = folder / f"{number}.bin"
        path.write_bytes(content)
        old(path)
        sums.append(f"{hashlib.sha256(content).hexdigest()}  {path.name}\n")
    (folder / "sums").write_text("".join(sums))
