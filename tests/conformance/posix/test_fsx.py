"""fsx: random reads, writes, mmaps, truncations and reopenings of one file; every read must return what was written."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.support.paths import TOOLS

OPERATIONS = 10_000
SEEDS = (1, 20, 300, 4_000)
# Holes cannot be punched and blocks not be reserved through NFSv3: the two operations are left out.
CONFIG = """
flen = {file_bytes_max}
[opsize]
max = 65536
[weights]
close_open = 1
read = 10
write = 10
mapread = 10
mapwrite = 10
invalidate = 1
truncate = 3
fsync = 0.5
fdatasync = 0.5
sendfile = 3
posix_fadvise = 1
copy_file_range = 1
"""


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", SEEDS)
def test_every_read_returns_what_was_written(
    folder: Path, seed: int, tmp_path: Path, details: dict[str, object]
) -> None:
    config = tmp_path / "fsx.toml"
    config.write_text(CONFIG.format(file_bytes_max=256 << 10 if seed % 2 else 3 << 20))
    done = subprocess.run(
        [TOOLS / "fsx", "-f", config, "-N", str(OPERATIONS), "-S", str(seed), "-P", tmp_path, folder / "file"],
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    details["fsx"] = {"operations": OPERATIONS, "seeds": list(SEEDS)}
