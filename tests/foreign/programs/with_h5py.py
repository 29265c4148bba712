"""HDF5: chunked and compressed, appended to, read by another process while it is written (SWMR)."""

import subprocess
import sys
from pathlib import Path

import h5py
import numpy

if len(sys.argv) > 2:
    with h5py.File(sys.argv[1], "r", libver="latest", swmr=True) as file:
        found = file["grows"][:]
        assert (found == numpy.arange(len(found))).all()
    sys.exit()

path = Path(sys.argv[1]) / "data.h5"
random = numpy.random.default_rng(7).random((500, 700))
with h5py.File(path, "w") as file:
    file.create_dataset("whole", data=random)
    file.create_dataset("chunked", data=random, chunks=(50, 70), compression="gzip", shuffle=True, fletcher32=True)
    file.attrs["about"] = "numbers"
with h5py.File(path, "r+") as file:
    file["chunked"][100:200] *= 2
    del file["whole"]
with h5py.File(path, "r") as file:
    expected = random.copy()
    expected[100:200] *= 2
    assert (file["chunked"][:] == expected).all()
    assert list(file) == ["chunked"]
growing = path.with_name("growing.h5")
with h5py.File(growing, "w", libver="latest") as file:
    numbers = file.create_dataset("grows", shape=(0,), maxshape=(None,), chunks=(1000,), dtype="i8")
    file.swmr_mode = True
    for turn in range(10):
        numbers.resize((1000 * (turn + 1),))
        numbers[1000 * turn :] = numpy.arange(1000 * turn, 1000 * (turn + 1))
        numbers.flush()
        if turn % 3 == 0:
            subprocess.run([sys.executable, __file__, growing, "read"], check=True)
print("all as written")
