"""Parquet and Arrow: a partitioned data set, read by threads and through a memory map."""

import sys
from pathlib import Path

import numpy
import pyarrow
import pyarrow.dataset
import pyarrow.feather
import pyarrow.parquet

folder = Path(sys.argv[1])
count = 50_000
numbers = numpy.random.default_rng(7)
table = pyarrow.table({
    "key": numbers.integers(0, 8, count), "value": numbers.random(count),
    "text": [f"row {row}" for row in range(count)],
})  # fmt: skip
pyarrow.parquet.write_table(table, folder / "one.parquet", row_group_size=5_000, compression="zstd")
assert pyarrow.parquet.read_table(folder / "one.parquet").equals(table)
assert pyarrow.parquet.read_table(folder / "one.parquet", memory_map=True).equals(table)
pyarrow.dataset.write_dataset(table, folder / "set", format="parquet", partitioning=["key"], partitioning_flavor="hive")
found = pyarrow.dataset.dataset(folder / "set", format="parquet", partitioning="hive").to_table()
assert found.num_rows == count
assert sorted(found["text"].to_pylist()) == sorted(table["text"].to_pylist())
pyarrow.feather.write_feather(table, str(folder / "one.arrow"), compression="uncompressed")
assert pyarrow.feather.read_table(folder / "one.arrow", memory_map=True).equals(table)
print("all as written")
