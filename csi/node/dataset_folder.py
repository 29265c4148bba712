"""Files of one Dataset on this node, in ``<run-dir>/datasets/UID``, a tmpfs: only root may enter.

``workers`` lists the workers, and is followed by the keeper; ``key`` and ``tls`` are the secrets that daemons get;
``dataset.json`` is what this process needs to continue with the Dataset after a restart, without secrets. Each file is
replaced atomically.
"""

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from csi._proto import dataset_pb2
from csi.base.errors import Code, DriverError
from csi.base.saved import RECORD_BYTES_MAX, DamagedError, checked, decoded
from csi.config.datasets import DatasetVolume

#: The name in every worker's certificate, by which daemons know them: addresses of pods change.
WORKERS_NAME = "worker.efc"
#: A file that is empty is one that is being written.
_NO_WORKERS = "# none\n"
_TLS_FILES = {"ca.crt": "authority", "tls.crt": "certificate", "tls.key": "private_key"}


@dataclass(kw_only=True)
class DatasetRecord:
    """A Dataset as this node goes on with it.

    ``keys`` are of daemons that stay without a volume while ``stays``, until the runtime is retired. ``network`` is
    what its daemons use, decided when its first volume came. A daemon that was started before the last change of
    secrets has to be replaced while ``is_stale``.
    """

    volume: DatasetVolume
    stays: bool
    network: str
    keys: list[str] = field(default_factory=list)
    is_stale: bool = False
    #: Whether the volumes ask for the pods' network, which this node did not have.
    lacks_network: bool = False
    #: The sources that were ordered last, in their canonical form; "" if none were, or there is one at the root.
    sources: str = ""


class DatasetFolder:
    """The folder of one Dataset. Methods raise INTERNAL if it cannot be written."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def workers(self) -> str:
        """The file that says where workers are."""
        return str(self._path / "workers")

    @property
    def key(self) -> str:
        """The file with the key of blocks."""
        return str(self._path / "key")

    @property
    def tls(self) -> str:
        """The folder for TLS with workers."""
        return str(self._path / "tls")

    def make(self) -> None:
        """Makes it, with no workers yet."""
        with self._reported():
            for folder in (self._path.parent, self._path, self._path / "tls"):
                folder.mkdir(mode=0o700, exist_ok=True)
            if not (self._path / "workers").exists():
                self._replace("workers", _NO_WORKERS.encode())

    def put_workers(self, workers: Iterable[dataset_pb2.Worker]) -> bool:
        """Whether the file said something else before."""
        lines = [f"{worker.address}*{worker.weight}" if worker.weight > 1 else worker.address for worker in workers]
        text = "".join(f"{line}\n" for line in sorted(lines)) or _NO_WORKERS
        with self._reported():
            return self._replace("workers", text.encode())

    def secrets(self) -> dataset_pb2.Secrets | None:
        """What the files hold, None if one cannot be read."""
        try:
            block_key = bytes.fromhex((self._path / "key").read_text())
            parts = {name: (self._path / "tls" / file).read_bytes() for file, name in _TLS_FILES.items()}
        except (OSError, ValueError):
            return None
        return dataset_pb2.Secrets(block_key=block_key, **parts)

    def put_secrets(self, secrets: dataset_pb2.Secrets) -> None:
        """Writes the key, and what TLS needs."""
        with self._reported():
            for file, name in _TLS_FILES.items():
                self._replace(f"tls/{file}", getattr(secrets, name))
            self._replace("tls/server-name", f"{WORKERS_NAME}\n".encode())
            self._replace("key", f"{secrets.block_key.hex()}\n".encode())

    def record(self) -> DatasetRecord:
        """Raises DamagedError or FileNotFoundError."""
        with (self._path / "dataset.json").open("rb") as file:
            record = checked(DatasetRecord, decoded(file.read(RECORD_BYTES_MAX + 1)))
        if record.volume.uid != self._path.name:
            raise DamagedError("it is another Dataset's")
        return record

    def put_record(self, record: DatasetRecord) -> None:
        """Writes the record."""
        with self._reported():
            self._replace("dataset.json", json.dumps(asdict(record)).encode())

    def remove(self) -> None:
        """Removes all; that there is nothing is success."""
        shutil.rmtree(self._path, ignore_errors=True)

    def _replace(self, name: str, content: bytes) -> bool:
        """Replaces a file, for root alone, unless it holds that already. Raises OSError."""
        path = self._path / name
        with contextlib.suppress(OSError):
            if path.read_bytes() == content:
                return False
        descriptor, new = tempfile.mkstemp(prefix=".", dir=path.parent)  # of mode 0600
        try:
            with open(descriptor, "wb") as file:
                file.write(content)
            os.replace(new, path)
        except BaseException:
            Path(new).unlink(missing_ok=True)
            raise
        return True

    @contextlib.contextmanager
    def _reported(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise DriverError(Code.INTERNAL, f"cannot write files in {self._path}: {error.strerror}") from None
