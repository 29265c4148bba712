"""A Dataset with its runtime, as the quick start has them, and variations of both."""

import datetime
import os
import random
from typing import Any

import hypothesis

from csi.api.dataset import Dataset
from csi.api.efcruntime import EFCRuntime
from csi.operator.objects.settings import Known, Settings
from csi.operator.objects.wanted import Wanted

UID, RUNTIME_UID = "3f2b8a10-5b0e-4a6e-9c1d-7e5a4c3b2a19", "0c9d8e7f-6a5b-4c3d-8e1f-a0b1c2d3e4f5"
NOW = datetime.datetime(2026, 11, 29, 12, tzinfo=datetime.UTC)
SETTINGS = Settings(image="efc-csi:1.0")
SERVICE = {"spec": {"clusterIP": "10.96.0.7"}}
#: Of property tests: however slow the machine is.
unhurried = hypothesis.settings(deadline=None)
MEMORY = {"mediumtype": "MEM", "path": "/dev/shm", "quota": "15Gi"}


def dataset(*, name: str = "efc-demo", namespace: str = "default", uid: str = UID, **spec: Any) -> Dataset:
    """A Dataset; ``annotations`` of ``spec`` are its metadata's."""
    annotations = spec.pop("annotations", {})
    mounts = [{"mountPoint": "nfs://nas:/data", "name": "efc", "path": "/"}]
    return Dataset.model_validate(
        {
            "metadata": {"name": name, "namespace": namespace, "uid": uid, "annotations": annotations},
            "spec": {"placement": "Shared", "mounts": mounts, **spec},
        }
    )


def runtime(*, name: str = "efc-demo", namespace: str = "default", uid: str = RUNTIME_UID, **spec: Any) -> EFCRuntime:
    """The quick start's runtime, but for what ``spec`` says."""
    pod_network = {"networkMode": "ContainerNetwork"}
    return EFCRuntime.model_validate(
        {
            "metadata": {"name": name, "namespace": namespace, "uid": uid},
            "spec": {
                "replicas": 3,
                "master": pod_network,
                "worker": pod_network,
                "fuse": pod_network,
                "tieredstore": {"levels": [MEMORY]},
                **spec,
            },
        }
    )


def known(wanted: Wanted | None = None, **others: Any) -> Known:
    """What is there: nothing but the Service, or all of what was ``wanted`` before."""
    present: dict[str, Any] = {"source": "nfs://nas/data", "now": NOW, "random": os.urandom, "service": SERVICE}
    if wanted is not None:
        names = ("authority", "node_secret", "master_secret", "worker_secret", "volume", "claim")
        present |= {name: getattr(wanted, name) for name in names}
    return Known(**present | others)


def pseudo_random(seed: int) -> Any:
    """Bytes that are the same for one seed."""
    return random.Random(seed).randbytes
