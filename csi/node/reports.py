"""Reports of repairs: the result of the last repair of each dataset's mounts, kept for people to read."""

import logging
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from csi.base.saved import DamagedError, Folder, checked
from csi.node.mounts import Loss, Unreplaced
from csi.node.replacing import Outcome

_LOGGER = logging.getLogger(__name__)
#: Latest time that a report can have (the year 9999).
_UNIX_S_MAX = 253_402_300_799.0
#: Most failures, and most losses, that one report names.
_NAMED_MAX = 20


@dataclass(frozen=True, kw_only=True)
class Report:
    """What the last repair of a dataset's mounts has come to. ``target`` and ``device`` are those of its new mount."""

    target: str
    device: str
    at_unix_s: float
    replaced: int
    failed: list[Unreplaced]
    losses: list[Loss]
    #: Whether no process was passed over in counting `losses`, and none is left out here.
    is_complete: bool

    def failure(self, path: str | None = None) -> str:
        """The mounts that stay dead, of the directory ``path`` of the dataset or of all, in a sentence; "" if none."""
        failed = [one for one in self.failed if path is None or not one.root or _overlap(one.root, f"/{path}")]
        named = "; ".join(f"process {one.process} at {one.mount_point}: {one.message}" for one in failed[:_NAMED_MAX])
        return f"a dead mount could not be replaced ({named}); restart the pod" if failed else ""

    def note(self) -> str:
        """When the mount was made anew, and which open files were lost, in a sentence."""
        at = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(min(max(self.at_unix_s, 0.0), _UNIX_S_MAX)))
        named = ", ".join(
            f"{loss.command} ({loss.process}): {loss.descriptors or 'its working directory'}"
            for loss in self.losses[:_NAMED_MAX]
        )
        named += "" if self.is_complete else " and perhaps others"
        lost = f"; open files that get errors until they are opened again: {named}" if named else ""
        return f"mounted again at {at}, after all processes that held its session had died{lost}"


def _overlap(one: str, other: str) -> bool:
    one, other = f"{one.rstrip('/')}/", f"{other.rstrip('/')}/"
    return one.startswith(other) or other.startswith(one)


class Reports:
    """The last report of each dataset, also on disk (``<run-dir>/csi/repaired``), where `efc status` reads it."""

    def __init__(self, run_dir: str) -> None:
        self._folder = Folder(Path(run_dir) / "csi" / "repaired")
        #: device -> what keeps a lost file system from being replaced just now, or "".
        self.lost: dict[str, str] = {}

    def put(self, report: Report) -> None:
        """Keeps ``report``; that it cannot be written is logged."""
        try:
            self._folder.make()
            self._folder.write(report.target, asdict(report))
        except OSError as error:
            path = self._folder.file_of(report.target)
            _LOGGER.warning("cannot write the report %s: %s", path, error.strerror)

    def get(self, target: str, *, device: str) -> Report | None:
        """The report of the mount that is at ``target`` now, None without one."""
        try:
            report = checked(Report, self._folder.read(self._folder.file_of(target)))
        except (DamagedError, FileNotFoundError):
            return None
        return report if (report.target, report.device) == (target, device) else None

    def forget_others(self, targets: Iterable[str]) -> None:
        """Removes reports of mounts that there are no more."""
        self._folder.forget_others(targets)


def report_of(outcome: Outcome, *, target: str, old: Iterable[str], new: str, before: Report | None = None) -> Report:
    """The part of an outcome that the file systems ``old`` have, for the mount ``new`` at ``target``.

    A later look adds to the report before: what failed then, and does not any more, is repaired.
    """
    devices = set(old)
    failed = [one for one in outcome.failed if one.device in devices]
    losses = [loss for loss in outcome.losses if loss.device in devices]
    is_complete = outcome.is_complete and len(losses) <= _NAMED_MAX
    replaced, at_unix_s = outcome.replaced, time.time()
    if before is not None:
        replaced, at_unix_s = replaced + before.replaced, before.at_unix_s
        losses, is_complete = before.losses, before.is_complete
        failed += [one for one in before.failed if one.device not in devices]
    return Report(
        target=target, device=new, at_unix_s=at_unix_s, replaced=replaced, failed=failed[:_NAMED_MAX],
        losses=losses[:_NAMED_MAX], is_complete=is_complete,
    )  # fmt: skip
