"""DuckDB: transactions, a checkpoint, a process that ends without closing, more data than memory may hold."""

import subprocess
import sys
from pathlib import Path

import duckdb

folder = Path(sys.argv[1])
base = folder / "base.duckdb"
if len(sys.argv) > 2:
    other = duckdb.connect(str(base))
    other.execute("INSERT INTO t SELECT range, 'late' FROM range(1000, 2000)")
    import os

    os._exit(7)  # without closing: its write-ahead log stays

with duckdb.connect(str(base)) as connection:
    connection.execute("CREATE TABLE t(n BIGINT, s TEXT)")
    connection.execute("INSERT INTO t SELECT range, 'x' || range FROM range(1000)")
    connection.execute("BEGIN; DELETE FROM t; ROLLBACK")
    connection.execute("CHECKPOINT")
assert subprocess.run([sys.executable, __file__, folder, "die"], check=False).returncode == 7
with duckdb.connect(str(base)) as connection:
    assert connection.execute("SELECT count(*), sum(n) FROM t").fetchone() == (2000, 1_999_000)
    connection.execute(f"SET memory_limit = '64MB'; SET temp_directory = '{folder}/spill'; SET threads = 2")
    connection.execute("SET preserve_insertion_order = false")
    query = "SELECT count(*) FROM (SELECT hash(range) h, repeat('x', 30) || range s FROM range(1500000) ORDER BY h)"
    assert connection.execute(query).fetchone() == (1_500_000,)
    connection.execute(f"COPY t TO '{folder}/t.parquet' (FORMAT parquet)")
    assert connection.execute(f"SELECT count(*) FROM '{folder}/t.parquet'").fetchone() == (2000,)
print("all as written")
