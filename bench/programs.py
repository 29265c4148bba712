"""Rows of whole programs: tar, rm, git, pip, cargo and SQLite, at what they do all day.

What they unpack or clone is made on the machine's own disk first, in each round anew, and does not count.
"""

from __future__ import annotations

import io
import os
import random
import sqlite3
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.rows import BEGIN, KIB, Load, Promise, Row

#: Of the archive: a source tree's, 20 MiB in all.
_FILES, _FILES_PER_FOLDER, _MEAN_BYTES, _BYTES_MAX = 5_000, 20, 4 * KIB, 64 * KIB
#: Of the repository; another branch has a third of them otherwise.
_TRACKED, _TRACKED_OTHERWISE = 2_000, 700
_TRANSACTIONS = 200
#: Longer than times of files are apart at any server.
_TICK_S = 1.1
#: Of the Python package, and of the Rust workspace.
_MODULES, _CRATES = 400, 12
_GIT = {
    "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull,
    "GIT_AUTHOR_NAME": "bench", "GIT_AUTHOR_EMAIL": "bench@localhost",
    "GIT_COMMITTER_NAME": "bench", "GIT_COMMITTER_EMAIL": "bench@localhost",
}  # fmt: skip


def _run(*command: str | Path) -> None:
    """Raises CalledProcessError, after the program's own words on standard error."""
    subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=os.environ | _GIT, check=True)


def _files(count: int, *, seed: int) -> Iterator[tuple[str, bytes]]:
    """Paths and contents, the same each time."""
    chance = random.Random(seed)
    for number in range(count):
        size = min(int(chance.expovariate(1 / _MEAN_BYTES)) + 1, _BYTES_MAX)
        yield f"folder-{number // _FILES_PER_FOLDER:03}/file-{number:04}", chance.randbytes(size)


@contextmanager
def _archive() -> Iterator[Path]:
    """A tar archive of a tree, its folders before their files."""
    with tempfile.TemporaryDirectory(prefix="efc-bench-") as name:
        path = Path(name) / "tree.tar"
        with tarfile.open(path, "w") as archive:
            folders = set[str]()
            for file, content in _files(_FILES, seed=1):
                folder = file.partition("/")[0]
                if folder not in folders:
                    folders.add(folder)
                    entry = tarfile.TarInfo(f"tree/{folder}")
                    entry.type, entry.mode = tarfile.DIRTYPE, 0o755
                    archive.addfile(entry)
                entry = tarfile.TarInfo(f"tree/{file}")
                entry.size, entry.mtime = len(content), 1_000_000_000
                archive.addfile(entry, io.BytesIO(content))
        yield path


def _untar() -> Iterator[int]:
    with _archive() as archive:
        yield BEGIN
        _run("tar", "-xf", archive)
        yield _FILES


def _remove_unpacked() -> Iterator[int]:
    with _archive() as archive:
        _run("tar", "-xf", archive)
    yield BEGIN
    _run("rm", "-r", "tree")
    yield 1 + _FILES // _FILES_PER_FOLDER + _FILES


@contextmanager
def _repository() -> Iterator[Path]:
    """A repository of two branches, on the machine's own disk."""
    with tempfile.TemporaryDirectory(prefix="efc-bench-") as name:
        path = Path(name)
        git = ("git", "-C", path)
        _run("git", "init", "--quiet", "--initial-branch=main", path)
        _write(path, _files(_TRACKED, seed=1))
        _run(*git, "add", "--all")
        _run(*git, "commit", "--quiet", "--message=main")
        _run(*git, "checkout", "--quiet", "-b", "other")
        _write(path, _files(_TRACKED_OTHERWISE, seed=2))
        _run(*git, "commit", "--quiet", "--all", "--message=other")
        _run(*git, "checkout", "--quiet", "main")
        yield path


def _write(folder: Path, files: Iterator[tuple[str, bytes]]) -> None:
    for name, content in files:
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)


def _clone(target: Path) -> None:
    with _repository() as repository:
        _run("git", "clone", "--quiet", "--no-local", repository, target)
        _run("git", "-C", target, "branch", "--quiet", "other", "origin/other")
    # Files that are as young as git's index may have changed since, for all that git knows: it would read some of them.
    time.sleep(_TICK_S)
    _run("git", "-C", target, "update-index", "--refresh", "--force-write-index")


def _clone_all() -> Iterator[int]:
    with _repository() as repository:
        yield BEGIN
        _run("git", "clone", "--quiet", "--no-local", repository, "clone")
        yield _TRACKED


def _checkout() -> Iterator[int]:
    _clone(Path("clone"))
    yield BEGIN
    _run("git", "-C", "clone", "checkout", "--quiet", "other")
    yield _TRACKED_OTHERWISE


def _status() -> Iterator[int]:
    """It writes nothing: git has no reason to renew its index."""
    yield BEGIN
    _run("git", "-C", "clone", "--no-optional-locks", "status", "--porcelain")
    yield _TRACKED


def _clone_on_server(folder: Path) -> None:
    _clone(folder / "clone")


@contextmanager
def _wheel() -> Iterator[Path]:
    """A Python package of many modules, as pip installs it."""
    with tempfile.TemporaryDirectory(prefix="efc-bench-") as folder:
        path = Path(folder) / "bench_tree-1-py3-none-any.whl"
        with zipfile.ZipFile(path, "w") as wheel:
            for number in range(_MODULES):
                text = "".join(f"def function_{line}(value):\n    return value + {line}\n" for line in range(40))
                wheel.writestr(f"bench_tree/part_{number // 20:02}/module_{number:03}.py", text)
            about = {
                "METADATA": "Metadata-Version: 2.1\nName: bench-tree\nVersion: 1\n",
                "WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
                "RECORD": "",
            }
            for name, text in about.items():
                wheel.writestr(f"bench_tree-1.dist-info/{name}", text)
        yield path


def _install() -> Iterator[int]:
    """Unpacks the package and compiles its modules."""
    with _wheel() as wheel:
        yield BEGIN
        _run(sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--target", "site", wheel)
        yield _MODULES


def _build() -> Iterator[int]:
    """A workspace of small crates; what it makes lies beside it, on the mount too."""
    members = [f"part-{number}" for number in range(_CRATES)]
    Path("Cargo.toml").write_text(f'[workspace]\nresolver = "2"\nmembers = {members}\n'.replace("'", '"'))
    for member in members:
        Path(member, "src").mkdir(parents=True)
        Path(member, "Cargo.toml").write_text(f'[package]\nname = "{member}"\nversion = "1.0.0"\nedition = "2021"\n')
        text = "".join(f"pub fn function_{line}(value: u64) -> u64 {{ value + {line} }}\n" for line in range(200))
        Path(member, "src", "lib.rs").write_text(text)
    yield BEGIN
    _run("cargo", "build", "--quiet", "--offline", "--jobs", "1")
    yield _CRATES


def _transactions(mode: str) -> Load:
    """Rows of 200 bytes, each inserted in a transaction of its own, synced as by default."""

    def load() -> Iterator[int]:
        base = sqlite3.connect("base", isolation_level=None)
        [(found,)] = base.execute(f"PRAGMA journal_mode={mode}").fetchall()
        assert found == mode, found
        base.execute("CREATE TABLE rows (number INTEGER PRIMARY KEY, content BLOB)")
        content = os.urandom(200)
        yield BEGIN
        for number in range(_TRANSACTIONS):
            base.execute("INSERT INTO rows VALUES (?, ?)", (number, content))
        yield _TRANSACTIONS
        base.close()

    return load


#: What is held back costs no program time.
_NO_SLOWER = (Promise(rate=1),)
ROWS = (
    Row(
        name="untar 5,000 files", load=_untar, state="in a folder just made, empty", unit="file", promises=_NO_SLOWER
    ),
    Row(
        name="rm -r of 5,000 files", load=_remove_unpacked, state="just unpacked", unit="entry", promises=_NO_SLOWER
    ),
    Row(name="git clone of 2,000 files", load=_clone_all, state="cold", unit="file", promises=_NO_SLOWER),
    Row(
        name="git checkout of 700 of 2,000 files", load=_checkout, state="just cloned", unit="file changed",
        promises=_NO_SLOWER,
    ),
    Row(name="git status of 2,000 files", load=_status, state="cold", unit="file", on_server=_clone_on_server),
    Row(name="pip install of 400 modules", load=_install, state="cold", unit="module", promises=_NO_SLOWER),
    Row(name="cargo build of 12 crates", load=_build, state="just written", unit="crate", promises=_NO_SLOWER),
    Row(
        name="SQLite, journal_mode=delete", load=_transactions("delete"), state="a new base", unit="transaction",
        promises=_NO_SLOWER,
    ),
    Row(
        name="SQLite, journal_mode=wal", load=_transactions("wal"), state="a new base", unit="transaction",
        promises=_NO_SLOWER,
    ),
)  # fmt: skip
