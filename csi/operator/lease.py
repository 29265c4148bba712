"""Leader election by a Lease of coordination.k8s.io: of several operators, one at a time reconciles.

The leader keeps writing its name and a time into the Lease. The others never compare that time with their own clock:
they watch the Lease, and take it over when it has not *changed* for its whole duration by their own clock. The leader
resigns when it could not renew for :data:`RENEW_SECONDS_MAX`, counted from when its last renewal was *sent*; that is
earlier than anybody else can take over, by more than one of its requests may last. A process that was paused notices
that when it continues, because everything it does as the leader asks :meth:`Leadership.leads` before each write.

:class:`Election` decides, without clock or network; :class:`Leadership` reads, writes and waits.
"""

import asyncio
import contextlib
import datetime
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

from csi.base.errors import Code, DriverError
from csi.operator.cluster import Json

_LOGGER = logging.getLogger(__name__)
#: How long a Lease that nobody renews keeps the others away.
DURATION_SECONDS = 15
#: How long after its last renewal a leader still leads.
RENEW_SECONDS_MAX = 10.0
#: Between two looks, and between two renewals.
PERIOD_SECONDS = 2.0
#: A request that takes longer counts as failed.
REQUEST_SECONDS_MAX = 4.0


@dataclass(frozen=True, kw_only=True)
class Write:
    """What the Lease should be: a new one, or the present one (by its resourceVersion) with this ``spec``."""

    spec: dict[str, Any]
    resource_version: str | None


@dataclass(kw_only=True)
class Election:
    """What is known of one Lease, and what follows. Times are seconds of any clock that only goes forward."""

    identity: str
    _seen: tuple[object, ...] | None = None
    _seen_at: float = 0.0
    _renewed_at: float | None = None

    def leads(self, *, now: float) -> bool:
        """Whether this one leads at this time."""
        return self.left_seconds(now=now) > 0

    def left_seconds(self, *, now: float) -> float:
        """How long it leads from this time on, unless it renews the Lease."""
        return 0.0 if self._renewed_at is None else max(0.0, self._renewed_at + RENEW_SECONDS_MAX - now)

    def step(self, lease: Json | None, *, now: float, wall: datetime.datetime) -> Write | None:
        """What to write, after a look at the Lease; None: another one leads."""
        if lease is None:
            return Write(spec=self._spec(wall, acquired=_written(wall), transitions=0), resource_version=None)
        spec = lease.get("spec") or {}
        holder = spec.get("holderIdentity") or ""
        version = str(lease["metadata"]["resourceVersion"])
        seen = (holder, spec.get("renewTime"), version)
        if seen != self._seen:
            self._seen, self._seen_at = seen, now
        transitions = int(spec.get("leaseTransitions") or 0)
        if holder == self.identity:
            acquired = spec.get("acquireTime") or _written(wall)
            return Write(spec=self._spec(wall, acquired=acquired, transitions=transitions), resource_version=version)
        duration = int(spec.get("leaseDurationSeconds") or DURATION_SECONDS)
        if holder and now < self._seen_at + duration:
            return None
        spec = self._spec(wall, acquired=_written(wall), transitions=transitions + 1)
        return Write(spec=spec, resource_version=version)

    def renewed(self, *, sent_at: float) -> None:
        """A write that was sent at that time succeeded."""
        self._renewed_at = sent_at

    def lost(self) -> None:
        """Another one has written the Lease."""
        self._renewed_at = None

    def _spec(self, wall: datetime.datetime, *, acquired: str, transitions: int) -> dict[str, Any]:
        return {
            "holderIdentity": self.identity,
            "leaseDurationSeconds": DURATION_SECONDS,
            "acquireTime": acquired,
            "renewTime": _written(wall),
            "leaseTransitions": transitions,
        }


def _written(wall: datetime.datetime) -> str:
    return wall.astimezone(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class Objects(Protocol):
    """The part of :class:`csi.operator.cluster.Cluster` that an election needs."""

    async def get(self, path: str) -> Json | None:
        """The object at ``path``, or None."""

    async def create(self, path: str, new: Json) -> Json:
        """Makes an object; ALREADY_EXISTS if the name is taken."""

    async def merge(self, path: str, changes: Json) -> Json:
        """Changes an object; ABORTED if it is not of the resourceVersion in ``changes``."""


class Leadership:
    """Runs duties while this process leads."""

    def __init__(self, objects: Objects, *, namespace: str, name: str, identity: str) -> None:
        self._objects = objects
        self._collection = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        self._namespace, self._name = namespace, name
        self._election = Election(identity=identity)
        self._said = ""

    def leads(self) -> bool:
        """Whether this process leads now."""
        return self._election.leads(now=asyncio.get_running_loop().time())

    async def run(self, duties: Callable[[], Awaitable[None]]) -> None:
        """Calls ``duties`` whenever this process has become the leader, and cancels them when it is no more.

        Ends only by cancellation, or with what ``duties`` raised; gives the Lease up then.
        """
        try:
            while True:
                await self._become_leader()
                _LOGGER.info("leads (Lease %s/%s)", self._namespace, self._name)
                await self._while_leader(duties)
                _LOGGER.warning("leads no more: the Lease could not be renewed for %g s", RENEW_SECONDS_MAX)
        finally:
            with contextlib.suppress(DriverError, TimeoutError):
                await asyncio.shield(self._give_up())

    async def _become_leader(self) -> None:
        while True:
            await self._look()
            if self.leads():
                return
            await asyncio.sleep(PERIOD_SECONDS)

    async def _while_leader(self, duties: Callable[[], Awaitable[None]]) -> None:
        async def all_duties() -> None:
            await duties()

        task = asyncio.create_task(all_duties())
        try:
            while self.leads():
                done, _ = await asyncio.wait([task], timeout=min(PERIOD_SECONDS, self._left_seconds()))
                if done:
                    task.result()
                    raise DriverError(Code.INTERNAL, "the operator's duties ended by themselves")
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._left_seconds()):
                        await self._look()
        finally:
            task.cancel()
            await asyncio.wait([task])

    def _left_seconds(self) -> float:
        return self._election.left_seconds(now=asyncio.get_running_loop().time())

    async def _look(self) -> None:
        """One look at the Lease, and what follows from it."""
        loop = asyncio.get_running_loop()
        sent_at = loop.time()
        try:
            async with asyncio.timeout(REQUEST_SECONDS_MAX):
                lease = await self._objects.get(f"{self._collection}/{self._name}")
                write = self._election.step(lease, now=loop.time(), wall=datetime.datetime.now(datetime.UTC))
                if write is None:
                    self._election.lost()
                    return
                sent_at = loop.time()
                await self._write(write)
        except TimeoutError:
            self._say("the API server does not answer")
        except DriverError as error:
            if error.code in (Code.ABORTED, Code.ALREADY_EXISTS):
                return  # another one was faster; the next look says who
            self._say(error.message)
        else:
            self._said = ""
            self._election.renewed(sent_at=sent_at)

    async def _write(self, write: Write) -> None:
        if write.resource_version is None:
            metadata: dict[str, str] = {"name": self._name, "namespace": self._namespace}
            lease = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": write.spec}
            await self._objects.create(self._collection, lease)
        else:
            changes = {"metadata": {"resourceVersion": write.resource_version}, "spec": write.spec}
            await self._objects.merge(f"{self._collection}/{self._name}", changes)

    async def _give_up(self) -> None:
        """Lets the next one lead at once, unless another one does already."""
        if not self.leads():
            return
        async with asyncio.timeout(REQUEST_SECONDS_MAX):
            path = f"{self._collection}/{self._name}"
            lease = await self._objects.get(path)
            if lease is not None and (lease.get("spec") or {}).get("holderIdentity") == self._election.identity:
                version = lease["metadata"]["resourceVersion"]
                changes = {"metadata": {"resourceVersion": version}, "spec": {"holderIdentity": ""}}
                await self._objects.merge(path, changes)
        self._election.lost()

    def _say(self, message: str) -> None:
        """Once for each message: it may be so for hours."""
        if message != self._said:
            self._said = message
            _LOGGER.warning("Lease %s/%s: %s", self._namespace, self._name, message)
