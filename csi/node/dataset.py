"""One Dataset on this node: its files, its connection to the master, and its daemons as the master orders them.

The master's orders are reconciled with the present state in a loop: workers are written to their file, which the keeper
follows; options are changed by the keeper's upgrade, without a new daemon if they are live; secrets are written to
their files, and reach a new daemon on the same session. None of this waits for a publish. A failure is a condition in
the next report, and is retried.
"""

import asyncio
import contextlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from csi._proto import dataset_pb2, efc_pb2
from csi.base.errors import Code, DriverError
from csi.config.adjusting import adjusted
from csi.config.datasets import DatasetVolume
from csi.config.mount_options import MountOptions, parse
from csi.config.options import OPTIONS
from csi.config.several import MountedSource, Sources, checked_path, origin_of_wire
from csi.config.sources import Source
from csi.node.daemons import Daemons
from csi.node.dataset_folder import DatasetFolder, DatasetRecord
from csi.node.dataset_stream import DatasetStream
from csi.node.keeper import Keeper, KeeperUnreachableError, options_of
from csi.node.mount_status import condition_of, store_of, workers_of
from csi.node.records import Publication, Publications
from csi.rpc.redaction import STRIPPED, redact_text

_LOGGER = logging.getLogger(__name__)
_LOOK_SECONDS = 2.0
_STATUS_SECONDS_MAX = 1.5
#: After an order that could not be obeyed.
_RETRY_SECONDS = 10.0
#: A daemon that stays without volumes goes when nobody has said for so long that it shall stay.
_FORSAKEN_SECONDS = 30.0
_CONDITIONS_MAX = 8
_KEY_BYTES = 32
_SERVING = (efc_pb2.MountStatus.SERVING, efc_pb2.MountStatus.UNRESPONSIVE_NAS)
#: Session of a node that has no daemon of the Dataset: what the next one counts, it has counted since.
_NO_DAEMON = "none"


class Dataset:
    """A Dataset that has volumes here, or a daemon."""

    def __init__(
        self,
        record: DatasetRecord,
        *,
        node: str,
        folder: DatasetFolder,
        keeper: Keeper,
        daemons: Daemons,
        publications: Publications,
        is_new: bool,
    ) -> None:
        """``is_new``: it had nothing here before."""
        self._record = record
        self._node = node
        self._folder = folder
        self._keeper = keeper
        self._daemons = daemons
        self._publications = publications
        self._orders: dataset_pb2.Orders | None = None
        self._user = f"dataset {record.volume.uid}"
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        #: Before the first look it is not known whether there is a daemon from before this process.
        self._counted = dataset_pb2.NodeReport(node=node, daemon_session=_NO_DAEMON if is_new else "")
        self._problems: dict[str, str] = {}
        self._retry_at = 0.0
        #: The sources that its daemons were told last, in their canonical form.
        self._told = ""
        #: How often secrets have become others.
        self._secrets_changes = 0
        self._forsaken_at: float | None = None
        #: Keys of its daemons that there may be still.
        self._had: set[str] = set(record.keys)
        #: Publishes that are under way.
        self.publishing = 0
        self._stream = self._new_stream()
        self._note_shortcomings()

    # ------------------------------------------------------------ publishing

    @property
    def volume_id(self) -> str:
        """The id of its volume."""
        return self._record.volume.volume_id

    @property
    def network(self) -> str:
        """The network that its daemons use."""
        return self._record.network

    def use_network(self, network: str, *, is_missing: bool) -> None:
        """What its next daemon uses; ``is_missing``: another one is asked for, which this node does not have."""
        if (network, is_missing) != (self._record.network, self._record.lacks_network):
            self._record.network, self._record.lacks_network = network, is_missing
            self._save()
            self._note_shortcomings()

    async def settle(self) -> None:
        """Waits a moment for the first orders."""
        if self._orders is None:
            await self._stream.first_orders()

    async def describe(self, volume: DatasetVolume, secrets: dataset_pb2.Secrets) -> None:
        """What a publish says of it, which may be news: other secrets, or another address of the master."""
        if self._record.volume != volume:
            # What could not be written is news at the next publish, too.
            self._folder.put_record(replace(self._record, volume=volume))
            self._record.volume = volume
            self._note_shortcomings()
        if self._orders is None or not _is_whole(self._orders.secrets) or not self._stream.is_connected:
            # While no master says newer ones, those that the API server has now are the latest.
            self._put_secrets(secrets)
            if self._orders is not None:
                self._orders.ClearField("secrets")
        if self._stream.address != volume.master:
            former, self._stream = self._stream, self._new_stream()
            await former.close()
        self._stream.start()

    def options(self, options: MountOptions) -> MountOptions:
        """The options that its volumes are published with; raises INVALID_ARGUMENT if they name other workers."""
        if wanted := self._record.volume.memory_max:
            options = replace(options, memory_max_mib=max(OPTIONS["memory-max"].minimum, wanted >> 20))
        return self._with_workers(options)

    def _with_workers(self, options: MountOptions) -> MountOptions:
        """The options with what is this Dataset's own; raises INVALID_ARGUMENT if they name other workers."""
        given = (options.workers, options.workers_key, options.workers_tls)
        own = (self._folder.workers, self._folder.key, self._folder.tls)
        if any(given) and given != own:
            message = "a Dataset has workers of its own: leave 'workers', 'workers-key' and 'workers-tls' out"
            raise DriverError(Code.INVALID_ARGUMENT, message)
        workers, key, tls = own
        return replace(options, network=self.network, workers=workers, workers_key=key, workers_tls=tls)

    def sources(self) -> Sources | None:
        """The sources that its daemon is to serve by now; None: those that its volume names."""
        if not self._record.sources or not self._record.volume.live_sources:
            return None
        return Sources.parse(self._record.sources, identity=self.volume_id)

    # ------------------------------------------------------------ its life

    def start(self) -> None:
        """Goes on with it."""
        self._keep()
        self._stream.start()
        if self._task is None:
            self._task = asyncio.create_task(self._always())

    async def close(self) -> None:
        """Lets it be, as it is."""
        await self._stream.close()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
            self._task = None

    def is_over(self) -> bool:
        """Whether nothing of it is here any more but its folder."""
        if self.publishing or self._volumes() or self._record.keys:
            return False
        return not self._had & self._daemons.known()

    async def end(self) -> None:
        """It is over: removes its folder."""
        closing = asyncio.create_task(self.close())
        # A publish that comes now has a folder of its own.
        self._stream.stop()
        if self._task is not None:
            self._task.cancel()
        self._folder.remove()
        await closing
        _LOGGER.info("%s has gone from this node", self._record.volume.name)

    def look(self) -> None:
        """Something has changed: volumes, for example."""
        self._wake.set()

    # ------------------------------------------------------------ orders

    def _new_stream(self) -> DatasetStream:
        return DatasetStream(
            name=self._record.volume.name,
            address=self._record.volume.master,
            secrets=self._folder.secrets,
            report=self._report,
            take=self._take,
        )

    def _take(self, orders: dataset_pb2.Orders) -> None:
        self._orders = orders
        self._retry_at = 0.0
        self._put_orders(orders)
        self.look()

    def _put_orders(self, orders: dataset_pb2.Orders) -> None:
        """Puts orders into files; what cannot be written is tried again at the next look."""
        self._record.stays = orders.keep_daemon and not orders.retired  # in force whether it can be saved or not
        try:
            self._record.sources = _canonical(orders.sources)
            self._folder.put_workers(orders.workers)
            if _is_whole(orders.secrets):
                self._put_secrets(orders.secrets)
            self._save()
            self._problems.pop("orders", None)
        except DriverError as error:
            self._problem("orders", error)

    def _put_secrets(self, secrets: dataset_pb2.Secrets) -> None:
        former = self._folder.secrets()
        if former == secrets:
            return
        self._secrets_changes += 1
        if former is not None and not self._record.is_stale:
            self._record.is_stale = True
            self._save()
        self._folder.put_secrets(secrets)
        self._retry_at = 0.0
        self.look()

    def _save(self) -> None:
        self._folder.put_record(self._record)

    # ------------------------------------------------------------ looking after it

    async def _always(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_SECONDS):
                    await self._wake.wait()
            self._wake.clear()
            try:
                if self._orders is not None and "orders" in self._problems:
                    self._put_orders(self._orders)
                self._keep()
                await self._look()
            except Exception:
                # Whatever it is: this Dataset is looked after again in a moment, and others are let alone.
                _LOGGER.exception("%s: looking after it failed", self._record.volume.name)
            self._stream.tell()

    async def _look(self) -> None:
        try:
            mounts = await self._mounts()
        except DriverError as error:
            self._problem("keeper", error)
            self._counted.serving = False
            return
        self._problems.pop("keeper", None)
        self._count(mounts)
        serving = [mount for mount in mounts if mount.state in _SERVING]
        if serving and asyncio.get_running_loop().time() >= self._retry_at:
            await self._obey(serving)

    async def _mounts(self) -> list[efc_pb2.MountStatus]:
        mounts: list[efc_pb2.MountStatus] = []
        for key in sorted(self._known_keys()):
            status = await self._keeper.status(self._daemons.mount_of(key), limit_seconds=_STATUS_SECONDS_MAX)
            mounts += status.mounts
        return mounts

    async def _obey(self, mounts: Sequence[efc_pb2.MountStatus]) -> None:
        try:
            if self._record.is_stale:
                changes = self._secrets_changes
                for mount in mounts:
                    await self._keeper.upgrade(target=mount.target)
                    _LOGGER.info("%s: a new daemon has its new secrets", self._record.volume.name)
                # Others may have come while a daemon started, which has read the former ones.
                if changes == self._secrets_changes and "orders" not in self._problems:
                    self._record.is_stale = False
                    self._save()
            sources = self.sources()
            fixed = [name for mount in mounts for name in await self._adjust(mount)]
            self._told = sources.canonical() if sources is not None else ""
        except DriverError as error:
            if not isinstance(error, KeeperUnreachableError):
                self._retry_at = asyncio.get_running_loop().time() + _RETRY_SECONDS
            self._problem("options", error)
            return
        self._problems.pop("options", None)
        names = ", ".join(sorted(set(fixed)))
        text = f"options that take effect when its last volume on this node, and then its daemon, is gone: {names}"
        self._note("fixed", text if names else "")

    async def _adjust(self, mount: efc_pb2.MountStatus) -> list[str]:
        """Has a daemon serve with the options and sources that are ordered; names of options that cannot change now.

        Orders without any option leave these as the volume says.
        """
        if self._orders is None:
            return []
        ordered = self._with_workers(_parsed(self._orders.options))
        current = options_of(mount)
        wanted = ordered.daemon_config(origin_of_wire(current)) if self._orders.options else current
        options, fixed = adjusted(current, wanted)
        sources = self.sources()
        if sources is not None and current.sources:
            del options.sources[:]
            options.sources.extend(sources.with_ports(port=ordered.port, mount_port=ordered.mount_port).to_wire())
        if options != current:
            await self._keeper.upgrade(target=mount.target, options=options, base=current, in_place=True)
            _LOGGER.info("%s is served with other options now", self._record.volume.name)
        return fixed

    def _keep(self) -> None:
        """Sees to it that daemons stay that shall, and no others."""
        with_volumes = {publication.key for publication in self._volumes()}
        self._had |= with_volumes
        kept = set(self._record.keys)
        wanted = (with_volumes or kept) if self._record.stays and not self._is_forsaken() else set()
        for key in wanted:
            self._daemons.keep(key, user=self._user)
        for key in kept - wanted:
            self._daemons.give_up(key, user=self._user)
        if self._orders is not None and self._orders.retired and not with_volumes and not self.publishing:
            # Its runtime waits for that.
            for key in self._had:
                self._daemons.release(key)
        if wanted != kept:
            self._record.keys = sorted(wanted)
            with contextlib.suppress(DriverError):
                self._save()

    def _is_forsaken(self) -> bool:
        """Whether there is neither a volume nor a master for so long that nobody will say that it may go."""
        if self._volumes() or self.publishing or self._stream.is_connected:
            self._forsaken_at = None
            return False
        now = asyncio.get_running_loop().time()
        if self._forsaken_at is None:
            self._forsaken_at = now + _FORSAKEN_SECONDS
        return now >= self._forsaken_at

    def _volumes(self) -> list[Publication]:
        return self._publications.of_volume(self.volume_id)

    def _known_keys(self) -> set[str]:
        return {publication.key for publication in self._volumes()} | set(self._record.keys)

    # ------------------------------------------------------------ reports

    def _report(self) -> dataset_pb2.NodeReport:
        report = dataset_pb2.NodeReport()
        report.CopyFrom(self._counted)
        report.volumes = len(self._volumes())
        report.conditions.extend([redact_text(text) for text in self._problems.values()][:_CONDITIONS_MAX])
        return report

    def _count(self, mounts: Sequence[efc_pb2.MountStatus]) -> None:
        """Notes what the daemons do."""
        counted = dataset_pb2.NodeReport(node=self._node)
        counted.serving = bool(mounts) and all(mount.state == efc_pb2.MountStatus.SERVING for mount in mounts)
        sessions = []
        for mount in mounts:
            sessions.append(f"{mount.mounted_at_unix_ms}-{mount.connection}")
            stats, cache = mount.stats, mount.stats.cache
            # Without a worker that answers, what the NAS gives goes around blocks. A block that was just read is given
            # out of memory in parts, and counts whole for each: all of it has come once, from the node's store, from a
            # worker or from the NAS.
            counted.bytes_read += cache.store_bytes + cache.workers_bytes + stats.nfs.bytes_read
            counted.bytes_from_node += cache.store_bytes
            counted.bytes_from_workers += cache.workers_bytes
            # Daemons of releases that count no changes count bytes.
            counted.changes += stats.writing.changes or stats.nfs.bytes_written
        counted.daemon_session = "+".join(sessions) or _NO_DAEMON
        counted.sources = self._told if mounts else ""
        self._counted = counted
        self._note("daemon", "; ".join(filter(None, map(condition_of, mounts))))
        self._note("workers", "; ".join(filter(None, map(workers_of, mounts))))
        self._note("store", "; ".join(filter(None, map(store_of, mounts))))

    def _note(self, what: str, text: str) -> None:
        if text:
            self._problems[what] = text
        else:
            self._problems.pop(what, None)

    def _note_shortcomings(self) -> None:
        """What the Dataset asks for and does not have on this node."""
        network = (
            "fuse.networkMode is ContainerNetwork, and this node has no efc-network (chart value network.enabled): "
        )
        self._note("network", f"{network}the node's network is used" if self._record.lacks_network else "")

    def _problem(self, what: str, error: DriverError) -> None:
        if self._problems.get(what) != error.message:
            _LOGGER.warning("%s: %s", self._record.volume.name, error.message)
        self._problems[what] = error.message


def _canonical(ordered: Iterable[dataset_pb2.SourceMount]) -> str:
    """The canonical form of sources that are ordered, "" if none are. Raises INVALID_ARGUMENT."""
    mounted = [
        MountedSource(path=checked_path(one.path), source=Source.parse(one.source), read_only=one.read_only)
        for one in ordered
    ]
    return Sources.of(mounted).canonical() if mounted else ""


def _is_whole(secrets: dataset_pb2.Secrets) -> bool:
    """Whether nothing is missing: an operator that has not read all of them yet says the rest later."""
    parts = (secrets.authority, secrets.certificate, secrets.private_key)
    return len(secrets.block_key) == _KEY_BYTES and all(parts)


def _parsed(options: Mapping[str, str]) -> MountOptions:
    """Checked options; INVALID_ARGUMENT that does not repeat their values, which may have come out of a Secret."""
    try:
        return parse([(name, value or None) for name, value in options.items()], origin="the Dataset's options")
    except DriverError as error:
        message = error.message
        for value in filter(None, options.values()):
            message = message.replace(repr(value), STRIPPED)
        raise DriverError(error.code, message) from None
