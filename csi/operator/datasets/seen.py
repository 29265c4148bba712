"""Input and output of decisions: the observed state of one key, and the actions decided on."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from csi._proto import dataset_pb2
from csi.api.common import ObjectMeta
from csi.api.dataset import Dataset
from csi.api.efcruntime import EFCRuntime
from csi.config.sources import Source
from csi.operator.cluster import Json
from csi.operator.datasets.allowed import AllowedSources
from csi.operator.masters import Master
from csi.operator.names import Names, is_our_volume, is_owned
from csi.operator.objects.wanted import Wanted
from csi.operator.pki import Random
from csi.operator.watching import Name

#: Keeps Dataset and runtime while a pod uses the claim, and until what they cannot own has gone.
FINALIZER = "efc.data.fluid.io/in-use"
WARNING, NORMAL = "Warning", "Normal"


@dataclass(frozen=True, kw_only=True)
class Probe:
    """How an attempt to reach the source ended; ``reason`` is empty if it can be reached."""

    source: str
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where a Dataset's mounts are: the canonical form of their source or sources, or why there is none."""

    source: str = ""
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Place:
    """A canonical source, and the one at or beneath which it is opened without following links: itself, or listed.

    Several sources, in their canonical form, are each opened as they are, so that the two are one.
    """

    source: str
    root: str

    @property
    def path(self) -> str:
        """The way from the root down to the source, "" if they are one."""
        if self.source == self.root:
            return ""
        return Source.parse(self.source).relative_to(Source.parse(self.root)) or ""


@dataclass(frozen=True, kw_only=True)
class Secrets:
    """The Secrets of a Dataset as last read, None for one that is not there."""

    authority: Json | None = None
    node: Json | None = None
    master: Json | None = None
    worker: Json | None = None

    def all(self) -> tuple[Json | None, ...]:
        """In the order of the fields."""
        return self.authority, self.node, self.master, self.worker


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What the master has told: None before the first time."""

    latest: dataset_pb2.Figures | None = None
    connected: bool = False


@dataclass(frozen=True, kw_only=True)
class No:
    """Why a Dataset cannot be used now: a reason in one word, and for people."""

    reason: str
    message: str


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What a decision was prepared of: ``made_of``, by ``at``, while the Secrets were there that ``stored`` says.

    ``due`` is when a certificate is to be renewed. Without ``wanted`` there is ``no``, and after ``again_seconds`` it
    may be otherwise.
    """

    made_of: tuple[object, ...]
    at: datetime
    stored: tuple[bool, ...]
    dataset: Dataset
    runtime: EFCRuntime
    no: No | None = None
    again_seconds: float | None = None
    place: Place = field(default_factory=lambda: Place(source="", root=""))
    wanted: Wanted | None = None
    due: datetime | None = None
    #: In force, those out of Secrets included.
    options: Mapping[str, str] = field(default_factory=dict)
    #: Fields that are given and have no effect.
    ignored: tuple[str, ...] = ()

    def models(self, seen: "Seen") -> tuple[Dataset, EFCRuntime]:
        """Dataset and runtime, each with the status that it has now."""
        dataset, runtime = ({"status": (found or {}).get("status") or {}} for found in (seen.dataset, seen.runtime))
        return self.dataset.model_copy(update=dataset), self.runtime.model_copy(update=runtime)


@dataclass(frozen=True, kw_only=True)
class Seen:
    """All that is known of one key: objects as the API server has them."""

    name: Name
    now: datetime
    random: Random
    dataset: Json | None = None
    runtime: Json | None = None
    service: Json | None = None
    master: Json | None = None
    workers: Json | None = None
    claim: Json | None = None
    #: Of this key's claim, also of Datasets that were of this name before.
    volumes: tuple[Json, ...] = ()
    #: Of the master and the workers.
    pods: tuple[Json, ...] = ()
    #: Pods that name the claim.
    users: tuple[Json, ...] = ()
    secrets: Secrets = field(default_factory=Secrets)
    #: Secrets of users, decoded, by name and key; those that are not there are left out.
    options: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    origin: Origin | None = None
    allowed: AllowedSources = field(default_factory=AllowedSources)
    probe: Probe | None = None
    figures: Figures = field(default_factory=Figures)
    #: What the API server said when it refused an object (KIND/NAME), and whose name is taken.
    refused: Mapping[str, str] = field(default_factory=dict)
    taken: Mapping[str, str] = field(default_factory=dict)
    #: Why there are fewer pods than wanted, in the words of Kubernetes, by the StatefulSet's name.
    pods_refused: Mapping[str, str] = field(default_factory=dict)
    other_runtimes: tuple[str, ...] = ()
    #: Where Fluid's own controller of EFCRuntimes runs.
    rival: str | None = None
    #: Whether the installed CRDs are ours, and not Fluid's.
    crds_are_ours: bool = True
    #: What was prepared for a decision before this one.
    prepared: Prepared | None = None

    def volume_of(self, names: Names, *, driver: str) -> Json | None:
        """The Dataset's own, if there is one."""
        return next((one for one in self.volumes if is_our_volume(one, names, driver=driver)), None)


def if_owned(found: Json | None, owner: ObjectMeta) -> Json | None:
    """The object, if it is there and belongs to ``owner``."""
    return found if found is not None and is_owned(found["metadata"], owner) else None


@dataclass(frozen=True, kw_only=True)
class Event:
    """One event of Kubernetes', about the object ``about``."""

    about: Json
    kind: str
    type: str
    reason: str
    message: str


@dataclass(frozen=True, kw_only=True)
class Deletion:
    """An object to be deleted: its resource and what it is called."""

    resource: str
    name: Name
    uid: str


@dataclass(kw_only=True)
class Decision:
    """What is to be done for one key, in the order of these fields."""

    #: Server-side apply of metadata: our finalizer, and the runtime's owner.
    dataset_metadata: dict[str, Any] | None = None
    runtime_metadata: dict[str, Any] | None = None
    #: Objects, whole: to be made if they are not there, else to be changed if they are otherwise.
    objects: list[dict[str, Any]] = field(default_factory=list)
    deletions: list[Deletion] = field(default_factory=list)
    #: Labels of pods: None takes one off.
    labels: list[tuple[Name, Mapping[str, str | None]]] = field(default_factory=list)
    dataset_status: dict[str, Any] | None = None
    runtime_status: dict[str, Any] | None = None
    events: list[Event] = field(default_factory=list)
    #: The source in force, "" while there is none.
    source: str = ""
    #: This is to be tried.
    probe: Place | None = None
    #: Who is to be told what; None: nobody.
    master: Master | None = None
    #: The Dataset is no more: all about this UID is to be forgotten.
    forget: str | None = None
    again_seconds: float | None = None
    #: For the next decision.
    prepared: Prepared | None = None

    def again_in(self, seconds: float) -> None:
        """Has the key looked at again after so long at the latest."""
        self.again_seconds = seconds if self.again_seconds is None else min(self.again_seconds, seconds)
