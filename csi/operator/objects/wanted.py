"""The desired state of all objects of a Dataset: a pure function of the specs and the existing objects."""

import base64
import hashlib
import json
import sys
from dataclasses import dataclass
from typing import Any

from csi.api.common import ObjectMeta
from csi.api.dataset import Dataset
from csi.api.efcruntime import EFCRuntime
from csi.operator import pki
from csi.operator.names import APPLIED_ANNOTATION, LINE_ANNOTATION, RUNTIME_KIND, Names, owner_reference
from csi.operator.objects import volume as volumes
from csi.operator.objects.levels import Cache, cache_of
from csi.operator.objects.pods import master_set, worker_set
from csi.operator.objects.settings import Known, Settings


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """The objects, whole, for server-side apply; each has the hash of itself in an annotation.

    ``volume`` is None while the Service has no address: it is wanted once that is known. ``needs_new_volume`` names
    what the Dataset says now and the volume that is there cannot be made to say.
    """

    authority: dict[str, Any]
    node_secret: dict[str, Any]
    master_secret: dict[str, Any]
    worker_secret: dict[str, Any]
    service: dict[str, Any]
    master: dict[str, Any]
    workers: dict[str, Any]
    volume: dict[str, Any] | None
    claim: dict[str, Any]
    cache: Cache
    #: What the Secrets hold.
    identities: pki.Identities
    needs_new_volume: tuple[str, ...] = ()

    def secrets(self) -> tuple[dict[str, Any], ...]:
        """Authority's, node's, master's, worker's."""
        return self.authority, self.node_secret, self.master_secret, self.worker_secret

    def objects(self) -> list[dict[str, Any]]:
        """In the order in which they are to be applied."""
        return [
            *self.secrets(),
            self.service,
            *([] if self.volume is None else [self.volume]),
            self.claim,
            self.master,
            self.workers,
        ]


def wanted_objects(
    dataset: Dataset, runtime: EFCRuntime, settings: Settings, *, known: Known, identities: pki.Identities | None = None
) -> Wanted:
    """What is wanted for this Dataset and its runtime; INVALID_ARGUMENT says which field cannot be as it is.

    ``identities`` are those that are known to be good; without them the Secrets that are there are looked at.
    """
    names, owner = Names.of(dataset.metadata), runtime.metadata
    cache = cache_of(runtime)
    made = identities or _identities(known)
    volume = volumes.volume(dataset, runtime, settings, known)
    return Wanted(
        authority=_owned(_secret(names, names.authority, made.authority), owner),
        node_secret=_owned(_secret(names, names.node_secret, made.node), owner),
        master_secret=_owned(_secret(names, names.master_secret, made.master), owner),
        worker_secret=_owned(_secret(names, names.worker_secret, made.worker), owner),
        service=_owned(volumes.service(dataset, runtime, known), owner),
        master=_owned(_of_line(master_set(dataset, runtime, settings), made.authority), owner),
        workers=_owned(_of_line(worker_set(dataset, runtime, settings, cache), made.authority), owner),
        volume=None if volume is None else _marked(volume),
        claim=_owned(volumes.claim(dataset, known), owner),
        cache=cache,
        identities=made,
        needs_new_volume=volumes.differences(dataset, runtime, settings, known),
    )


def _identities(known: Known) -> pki.Identities:
    present = pki.Identities(
        authority=pki.files(known.authority),
        node=pki.files(known.node_secret),
        master=pki.files(known.master_secret),
        worker=pki.files(known.worker_secret),
    )
    return pki.identities(present, now=known.now, random=known.random)


def applied_hash(wanted: dict[str, Any]) -> str:
    """A digest of an object, whatever the order of its fields."""
    return hashlib.sha256(json.dumps(wanted, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _secret(names: Names, name: str, files: pki.Files) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "labels": names.labels()},
        "type": "Opaque",
        "data": {file: base64.b64encode(content).decode() for file, content in files.items()},
    }


def _of_line(stateful_set: dict[str, Any], authority: pki.Files) -> dict[str, Any]:
    """With pods that start anew when an authority comes which those that run do not know, and so would refuse."""
    annotations = stateful_set["spec"]["template"]["metadata"].setdefault("annotations", {})
    annotations[LINE_ANNOTATION] = authority[pki.LINE].decode(errors="replace")
    return stateful_set


def _owned(wanted: dict[str, Any], owner: ObjectMeta) -> dict[str, Any]:
    """The object in its runtime's namespace: it goes when that goes."""
    wanted["metadata"] |= {"namespace": owner.namespace, "ownerReferences": [owner_reference(RUNTIME_KIND, owner)]}
    return _marked(wanted)


def _marked(wanted: dict[str, Any]) -> dict[str, Any]:
    given = wanted["metadata"].get("annotations") or {}
    # The object that is made of it, and what is remembered of it, have the same text.
    wanted["metadata"]["annotations"] = {**given, APPLIED_ANNOTATION: sys.intern(applied_hash(wanted))}
    return wanted
