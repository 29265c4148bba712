"""One worker: `python -m tests.faults.load [KIND] FOLDER [ARGUMENT...]`; see the package."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path

from tests.faults.load import files, programs, shared
from tests.faults.load.worker import Worker, run

WORKERS: dict[str, type[Worker]] = {
    "reads": files.Reads,
    "files": files.Files,
    "mapping": files.Mapping,
    "renames": files.Renames,
    "unlinked": files.Unlinked,
    "inside": files.Inside,
    "locks": shared.Locks,
    "lock-contender": shared.LockContender,
    "append": shared.Append,
    "append-writer": shared.AppendWriter,
    "listing": shared.Listing,
    "fio": programs.Fio,
    "git": programs.Git,
    "sqlite": programs.Sqlite,
}


def main(arguments: list[str]) -> None:
    """See the module."""
    kind, folder, *rest = arguments if len(arguments) > 1 else ["files", *arguments]
    with suppress(BrokenPipeError):  # whoever started it is gone
        print(run(WORKERS[kind](Path(folder), *rest)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
