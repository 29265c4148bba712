"""fio with verification, in twenty shapes: how it writes, in which sizes, by which engine, synced how often."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.foreign.places import Place, run

SHAPES = {
    "sequential": "--rw=write --bs=1m",
    "random": "--rw=randwrite --bs=4k",
    "mixed": "--rw=randrw --bs=16k",
    "readwrite": "--rw=rw --bs=64k",
    "direct": "--rw=randwrite --bs=4k --direct=1",
    "direct_large": "--rw=write --bs=1m --direct=1",
    "unaligned": "--rw=randwrite --bsrange=1k-64k --bs_unaligned=1",
    "fsync": "--rw=randwrite --bs=8k --fsync=8",
    "fdatasync": "--rw=randwrite --bs=8k --fdatasync=4",
    "sync": "--rw=randwrite --bs=16k --sync=1 --io_size=1m",
    "mmap": "--rw=randwrite --bs=4k --ioengine=mmap",
    "mmap_mixed": "--rw=randrw --bs=8k --ioengine=mmap",
    "libaio": "--rw=randwrite --bs=4k --ioengine=libaio --iodepth=16 --direct=1",
    "io_uring": "--rw=randwrite --bs=4k --ioengine=io_uring --iodepth=16",
    "posixaio": "--rw=randrw --bs=8k --ioengine=posixaio --iodepth=8",
    "pvsync2": "--rw=randwrite --bs=32k --ioengine=pvsync2",
    "many_files": "--rw=randwrite --bs=4k --nrfiles=64",
    "many_jobs": "--rw=randwrite --bs=16k --numjobs=4 --group_reporting",
    "fallocate": "--rw=write --bs=64k --fallocate=posix",
    "sparse": "--rw=randwrite --bs=4k --norandommap --random_generator=lfsr --overwrite=0 --io_size=4m",
}


@pytest.mark.parametrize("shape", SHAPES)
def test_fio(place: Place, shape: str) -> None:
    def work(folder: Path) -> None:
        run(
            "fio", f"--name={shape}", f"--directory={folder}", "--size=8m", "--verify=crc32c", "--verify_fatal=1",
            "--verify_state_save=0", "--do_verify=1", "--randseed=7", "--end_fsync=1", "--thread",
            *SHAPES[shape].split(), cwd=folder,
        )  # fmt: skip

    place.work(work)
