"""The specs of Dataset and runtime, checked and in the form in which the master gets them."""

import re
from collections.abc import Mapping

from csi._proto import dataset_pb2
from csi.api.checks import problems
from csi.api.dataset import Dataset
from csi.api.efcruntime import CleanPolicy, EFCRuntime
from csi.api.ignored import ignored_fields
from csi.api.sources import options_of_all
from csi.base.addresses import joined_address
from csi.base.errors import DriverError
from csi.config.several import origin_of
from csi.config.sources import Source
from csi.operator import pki
from csi.operator.datasets import statuses
from csi.operator.datasets.seen import Place, Seen
from csi.operator.names import ROLE_LABEL, WORKER_ROLE
from csi.operator.objects.levels import Cache
from csi.operator.objects.settings import Settings
from csi.operator.objects.volume import memory_max

_UNITS_MS = {"s": 1000, "m": 60_000, "h": 3_600_000}
_DURATION = re.compile(r"([0-9]{1,6})([smh])")
#: Of a Dataset: how often its totals are counted anew, such as "10m".
WALK_ANNOTATION = "efc.data.fluid.io/walk-every"


def options(
    dataset: Dataset, runtime: EFCRuntime, settings: Settings, *, secrets: Mapping[str, Mapping[str, str]]
) -> tuple[str, dict[str, str]]:
    """What of them cannot be, in words that say how to fix it; if all can be, "" and the mount options in force.

    ``secrets`` are those of users that the Dataset names, by name and key; what they hold is among the options.
    """
    found = [str(one) for one in problems(dataset)] + [f"EFCRuntime: {one}" for one in problems(runtime)]
    if found:
        return "; ".join(found), {}
    try:
        return "", options_of_all(dataset, runtime=runtime, secrets=secrets, has_pod_network=settings.has_pod_network)
    except DriverError as error:
        return error.message, {}


def ignored(dataset: Dataset, runtime: EFCRuntime, settings: Settings) -> list[str]:
    """Fields that are given and have no effect."""
    return ignored_fields(dataset, runtime, has_pod_network=settings.has_pod_network)


def configuration(
    dataset: Dataset,
    runtime: EFCRuntime,
    *,
    place: Place,
    options: Mapping[str, str],
    seen: Seen,
    cache: Cache,
    is_retired: bool,
) -> dataset_pb2.Configuration:
    """What the master is told, with the mount options in force; its revision and checkpoint are left out."""
    owner = dataset.spec.owner
    return dataset_pb2.Configuration(
        dataset=f"{seen.name[0]}/{seen.name[1]}",
        uid=dataset.metadata.uid,
        mounts=_mounts(place),
        workers=[
            dataset_pb2.Worker(
                name=pod["metadata"]["name"],
                address=joined_address(pod["address"], next(iter(pod["ports"]), 0)),
                capacity_bytes=cache.quota_bytes,
            )
            for pod in seen.pods
            if pod["metadata"]["labels"].get(ROLE_LABEL) == WORKER_ROLE and statuses.is_ready(pod)
        ],
        orders=_orders(runtime, options, seen, is_retired=is_retired),
        owner_uid=(owner.uid if owner else None) or 0,
        owner_gid=(owner.gid if owner else None) or 0,
        walk_every_ms=_walk_every_ms(dataset),
    )


def _mounts(place: Place) -> list[dataset_pb2.SourceMount]:
    origin = origin_of(place.source)
    if isinstance(origin, Source):
        return [dataset_pb2.SourceMount(source=place.source, path="/", root=place.root)]
    return [
        dataset_pb2.SourceMount(source=url, path=one.path, read_only=one.read_only, root=url)
        for one in origin.mounted
        for url in [one.source.canonical()]
    ]


def _orders(runtime: EFCRuntime, options: Mapping[str, str], seen: Seen, *, is_retired: bool) -> dataset_pb2.Orders:
    files = pki.files(seen.secrets.node)
    limit = memory_max(runtime)
    return dataset_pb2.Orders(
        options={**options, **({"memory-max": f"{limit >> 20}MiB"} if limit else {})},
        secrets=dataset_pb2.Secrets(
            block_key=pki.block_key(files),
            authority=files.get(pki.AUTHORITY, b""),
            certificate=files.get(pki.CERTIFICATE, b""),
            private_key=files.get(pki.PRIVATE_KEY, b""),
        ),
        retired=is_retired,
        keep_daemon=runtime.spec.fuse.clean_policy is not CleanPolicy.ON_DEMAND,
    )


def _walk_every_ms(dataset: Dataset) -> int:
    """How often totals are counted anew; 0, also for what makes no sense: as the master has it."""
    match = _DURATION.fullmatch(dataset.metadata.annotations.get(WALK_ANNOTATION, ""))
    return int(match[1]) * _UNITS_MS[match[2]] if match else 0
