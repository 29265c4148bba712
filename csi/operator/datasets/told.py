"""What Dataset and runtime say, checked, and as the master is told it."""

from collections.abc import Mapping

from csi._proto import dataset_pb2
from csi.api.dataset import Dataset
from csi.api.efcruntime import CleanPolicy, EFCRuntime
from csi.operator import pki
from csi.operator.datasets import statuses
from csi.operator.datasets.seen import Seen
from csi.operator.names import ROLE_LABEL, WORKER_ROLE
from csi.operator.objects.levels import Cache
from csi.operator.objects.options import mount_options
from csi.operator.objects.settings import Settings
from csi.operator.objects.wanted import Wanted

#: Of a Dataset: how often its totals are counted anew, such as "10m".
WALK_ANNOTATION = "efc.data.fluid.io/walk-every"


def problem(dataset: Dataset, runtime: EFCRuntime, *, options: Mapping[str, Mapping[str, str]]) -> str:
    """What of them cannot be, in words that say how to mend it; empty if all can be."""
    return ""


def ignored(dataset: Dataset, runtime: EFCRuntime, wanted: Wanted | None) -> list[str]:
    """Fields that are given and have no effect, with the reason."""
    return [f"{one.field}: {one.reason}" for one in (wanted.ignored if wanted else ())]


def configuration(
    dataset: Dataset, runtime: EFCRuntime, settings: Settings, *, source: str, seen: Seen, cache: Cache
) -> dataset_pb2.Configuration:
    """What the master is told; its revision and checkpoint are left out."""
    owner = dataset.spec.owner
    return dataset_pb2.Configuration(
        dataset=f"{seen.name[0]}/{seen.name[1]}",
        uid=dataset.metadata.uid,
        mounts=[dataset_pb2.SourceMount(source=source, path="/")],
        workers=[
            dataset_pb2.Worker(
                name=pod["metadata"]["name"],
                address=f"{_bracketed(pod['address'])}:{next(iter(pod['ports']), 0)}",
                capacity_bytes=cache.quota_bytes,
            )
            for pod in seen.pods
            if pod["metadata"]["labels"].get(ROLE_LABEL) == WORKER_ROLE and statuses.is_ready(pod)
        ],
        orders=_orders(dataset, runtime, settings, seen),
        owner_uid=(owner.uid if owner else None) or 0,
        owner_gid=(owner.gid if owner else None) or 0,
    )


def _orders(dataset: Dataset, runtime: EFCRuntime, settings: Settings, seen: Seen) -> dataset_pb2.Orders:
    files = pki.files(seen.secrets.node)
    return dataset_pb2.Orders(
        options=mount_options(dataset, runtime, settings),
        secrets=dataset_pb2.Secrets(
            block_key=bytes.fromhex(files.get(pki.BLOCK_KEY, b"").decode()),
            authority=files.get(pki.AUTHORITY, b""),
            certificate=files.get(pki.CERTIFICATE, b""),
            private_key=files.get(pki.PRIVATE_KEY, b""),
        ),
        keep_daemon=runtime.spec.fuse.clean_policy is not CleanPolicy.ON_DEMAND,
    )


def _bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address
