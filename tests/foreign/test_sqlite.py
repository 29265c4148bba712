"""SQLite in all its journal modes: transactions of several processes, a crash in the middle, its own check."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.foreign.places import Place, run

MODES = ("delete", "truncate", "persist", "memory", "wal", "off")
ROWS = 300


@pytest.mark.parametrize("mode", MODES)
def test_sqlite(place: Place, mode: str) -> None:
    def work(folder: Path) -> None:
        base = folder / "base.db"
        said = run("sqlite3", base, f"PRAGMA journal_mode={mode}; CREATE TABLE t(n INTEGER PRIMARY KEY, s TEXT);")
        assert mode in said, said
        script = f"""
        .timeout 60000
        PRAGMA journal_mode={mode};
        WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < {ROWS})
        INSERT INTO t SELECT n, hex(randomblob(200)) FROM c;
        BEGIN; UPDATE t SET s = 'x' || s WHERE n % 2; COMMIT;
        BEGIN; DELETE FROM t WHERE n % 3 = 0; ROLLBACK;
        VACUUM;
        """
        run("sqlite3", base, stdin=script.replace("        ", ""))
        for number in range(20):
            run("sqlite3", base, f"PRAGMA busy_timeout=60000; UPDATE t SET s = s || '{number}' WHERE n <= 50;")
        assert "ok" in run("sqlite3", base, "PRAGMA integrity_check;")
        expected = ROWS // 2 if mode != "off" else None  # without a journal a rollback is undefined
        if expected is not None:
            counted = run("sqlite3", base, "SELECT count(*), sum(s LIKE 'x%') FROM t;").strip()
            assert counted == f"{ROWS}|{expected}", counted

    place.work(work)
