"""Zarr: thousands of small files, written by threads, changed and read back."""

import sys
from pathlib import Path

import numpy
import zarr

path = Path(sys.argv[1]) / "data.zarr"
random = numpy.random.default_rng(7).random((300, 400))
root = zarr.open_group(str(path), mode="w")
array = root.create_array("a", shape=random.shape, chunks=(20, 20), dtype="f8")
array[:] = random
array[17:90, 33:222] += 1
random[17:90, 33:222] += 1
array.attrs["about"] = "numbers"
again = zarr.open_group(str(path), mode="r")["a"]
assert (again[:] == random).all()
assert again.attrs["about"] == "numbers"
array.resize((350, 400))
assert zarr.open_group(str(path), mode="r")["a"].shape == (350, 400)
print("all as written")
