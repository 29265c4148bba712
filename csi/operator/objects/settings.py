"""Settings of the driver that the objects of a Dataset depend on, beside the Dataset and its runtime."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from csi.base import driver
from csi.operator.pki import Random

#: An object as the API server has it, or takes it.
Object = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the operator is told by its command line; the same for all Datasets."""

    #: Of masters and workers: the driver's own.
    image: str
    image_pull_policy: str = "IfNotPresent"
    #: Names of Secrets in the Dataset's namespace.
    image_pull_secrets: tuple[str, ...] = ()
    driver: str = driver.NAME
    #: Whether each node has a pod `efc-network`, for the option `network=pod`.
    has_pod_network: bool = True


@dataclass(frozen=True, kw_only=True)
class Known:
    """What is there already, and what is not decided by objects: where the data is, the time, randomness.

    ``source`` is the canonical form of the source that nodes mount, or of several: for `pvc://` what its claim's volume
    names. The data of a single one is at ``path`` beneath, which nodes open without following links. Secrets, Service,
    volume and claim are the objects of these names if they are the Dataset's own, else None.

    ``are_listed``: an administrator says which sources there may be. Nodes take several from the volume alone then, not
    from the master, for which whoever reads Secrets in the Dataset's namespace can speak.
    """

    source: str
    path: str = ""
    are_listed: bool = False
    is_address_lost: bool = False
    now: datetime
    random: Random
    authority: Object | None = None
    node_secret: Object | None = None
    master_secret: Object | None = None
    worker_secret: Object | None = None
    service: Object | None = None
    volume: Object | None = None
    claim: Object | None = None
