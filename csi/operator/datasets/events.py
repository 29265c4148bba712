"""Events of Kubernetes about Datasets and their runtimes."""

import hashlib
import logging
from datetime import UTC, datetime

from csi.base.errors import Code, DriverError
from csi.operator.cluster import FIELD_MANAGER, Cluster
from csi.operator.datasets import paths
from csi.operator.datasets.seen import WARNING, Event, Seen
from csi.operator.names import DATASET_KIND, RUNTIME_KIND

_LOGGER = logging.getLogger(__name__)
_MESSAGE_LENGTH_MAX = 1024
_REMEMBERED_MAX = 20_000


class Events:
    """Posts each once, as long as it is remembered; a refused one is logged, and costs nothing else."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._posted: set[str] = set()

    async def post_refusal(self, seen: Seen, message: str) -> None:
        """Posts that something that is to go cannot be deleted, about the Dataset and its runtime."""
        for kind, found in ((DATASET_KIND, seen.dataset), (RUNTIME_KIND, seen.runtime)):
            if found is not None:
                await self.post(
                    Event(about=found, kind=kind, type=WARNING, reason="ErrorDeleteDataset", message=message)
                )

    async def post(self, event: Event) -> None:
        """Posts an event, once: its name is that of what it says."""
        metadata = event.about["metadata"]
        text = "\n".join((metadata["uid"], event.reason, event.message))
        digest = hashlib.sha256(text.encode()).hexdigest()[:16]
        if digest in self._posted:
            return
        if len(self._posted) >= _REMEMBERED_MAX:
            self._posted.clear()
        self._posted.add(digest)
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        posted = {
            "apiVersion": "v1",
            "kind": "Event",
            # What is cut may end where no part of a name may.
            "metadata": {
                "name": f"{metadata['name'][:200].rstrip('-.')}.{digest}",
                "namespace": metadata["namespace"],
            },
            "involvedObject": {
                "apiVersion": "data.fluid.io/v1alpha1",
                "kind": event.kind,
                "name": metadata["name"],
                "namespace": metadata["namespace"],
                "uid": metadata["uid"],
                "resourceVersion": metadata["resourceVersion"],
            },
            "type": event.type,
            "reason": event.reason,
            "message": event.message[:_MESSAGE_LENGTH_MAX],
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
            "source": {"component": FIELD_MANAGER},
            "reportingComponent": FIELD_MANAGER,
        }
        try:
            await self._cluster.create(paths.EVENT.collection(metadata["namespace"]), posted)
        except DriverError as error:
            if error.code is not Code.ALREADY_EXISTS:
                _LOGGER.info("event of %s/%s: %s", metadata["namespace"], metadata["name"], error.message)
