"""The Datasets of this node: their volumes are made by the operator, and their daemons are configured by a master.

All volumes of a Dataset on this node share its folder, its connection and its daemon (:mod:`csi.node.dataset`). After a
restart of this process all of it is restored from folders and records, because Secrets come only with publishes.
"""

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path

from csi.base.saved import DamagedError
from csi.config.datasets import VOLUME_ID_PREFIX, DatasetVolume, secrets_of
from csi.config.several import Sources
from csi.config.volumes import NodeVolume
from csi.node.daemons import Daemons
from csi.node.dataset import Dataset
from csi.node.dataset_folder import DatasetFolder, DatasetRecord
from csi.node.keeper import Keeper
from csi.node.records import Publications

_LOGGER = logging.getLogger(__name__)
_LOOK_SECONDS = 2.0
_PODS_NETWORK, _NODES_NETWORK = "pod", "host"
_SOCKET_SECONDS_MAX = 0.2


class Datasets:
    """The Datasets of one node."""

    def __init__(
        self, *, run_dir: str, node: str, keeper: Keeper, daemons: Daemons, publications: Publications
    ) -> None:
        self._folder = Path(run_dir) / "datasets"
        self._networks = Path(run_dir) / "network"
        self._node = node
        self._keeper = keeper
        self._daemons = daemons
        self._publications = publications
        self._datasets: dict[str, Dataset] = {}

    @contextlib.asynccontextmanager
    async def prepared(self, volume: NodeVolume, secrets: Mapping[str, str]) -> AsyncIterator[NodeVolume]:
        """For a publish: the volume with the options of its Dataset, if it is of one, whose orders have come by then.

        Waits a second at most, and only for a master that can be reached. Raises INVALID_ARGUMENT if the Secret is not
        that of a Dataset, INTERNAL if the files cannot be written.
        """
        if volume.dataset is None:
            yield volume
            return
        given = secrets_of(secrets)
        dataset = self._dataset(volume.dataset, wanted_network=volume.options.network)
        dataset.publishing += 1
        try:
            await dataset.describe(volume.dataset, given)
            options = dataset.options(volume.options)
            await dataset.settle()
            yield replace(volume, options=options, serving=dataset.sources())
        finally:
            dataset.publishing -= 1
            dataset.start()
            dataset.look()

    def recover(self) -> None:
        """Goes on, at start, with the Datasets that have a folder here."""
        for folder in self._folders():
            try:
                record = DatasetFolder(folder).record()
            except FileNotFoundError:
                # Its making or its removal was cut off: nothing of it may stay, keys above all.
                if not self._publications.of_volume(VOLUME_ID_PREFIX + folder.name):
                    DatasetFolder(folder).remove()
                continue
            except (DamagedError, OSError) as error:
                _LOGGER.warning("the Dataset in %s is left alone: %s", folder, error)
                continue
            self._made(record, is_new=False).start()

    async def watch(self) -> None:
        """Removes what is left of Datasets that have gone from this node; never returns."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            for uid, dataset in list(self._datasets.items()):
                if dataset.is_over():
                    del self._datasets[uid]
                    await dataset.end()

    async def close(self) -> None:
        """Disconnects from all masters; volumes and daemons go on."""
        await asyncio.gather(*(dataset.close() for dataset in self._datasets.values()))

    def sources(self, volume_id: str) -> Sources | None:
        """The sources that the daemon of a volume is to serve by now; None: those that the volume names."""
        found = (dataset for dataset in self._datasets.values() if dataset.volume_id == volume_id)
        return next((dataset.sources() for dataset in found), None)

    def look(self, volume_id: str) -> None:
        """A volume was unpublished, of a Dataset perhaps."""
        for dataset in self._datasets.values():
            if dataset.volume_id == volume_id:
                dataset.look()

    def _folders(self) -> list[Path]:
        try:
            return sorted(self._folder.iterdir())
        except FileNotFoundError:
            return []

    def _dataset(self, volume: DatasetVolume, *, wanted_network: str) -> Dataset:
        """The Dataset, made now if it has nothing here yet."""
        known = self._datasets.get(volume.uid)
        if known is not None and (known.publishing or self._publications.of_volume(volume.volume_id)):
            return known
        is_missing = wanted_network == _PODS_NETWORK and not self._has_pods_network()
        network = _NODES_NETWORK if is_missing else wanted_network
        if known is not None:
            # It has none but a daemon that stays, which the next volume may have no use for.
            known.use_network(network, is_missing=is_missing)
            return known
        record = DatasetRecord(volume=volume, stays=volume.stays, network=network, lacks_network=is_missing)
        folder = DatasetFolder(self._folder / volume.uid)
        folder.make()
        folder.put_record(record)
        return self._made(record, is_new=True)

    def _made(self, record: DatasetRecord, *, is_new: bool) -> Dataset:
        dataset = Dataset(
            record,
            node=self._node,
            folder=DatasetFolder(self._folder / record.volume.uid),
            keeper=self._keeper,
            daemons=self._daemons,
            publications=self._publications,
            is_new=is_new,
        )
        self._datasets[record.volume.uid] = dataset
        return dataset

    def _has_pods_network(self) -> bool:
        """Whether somebody hands out the network; that it is the right one is for the keeper to see."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
            connection.settimeout(_SOCKET_SECONDS_MAX)
            try:
                connection.connect(str(self._networks / f"{_PODS_NETWORK}.sock"))
            except OSError:
                return False
        return True
