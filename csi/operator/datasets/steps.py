"""Steps of decisions about a Dataset that several of them take."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from csi.api.common import API_VERSION, ObjectMeta
from csi.base import driver
from csi.base.errors import Code, DriverError
from csi.operator import store
from csi.operator.cluster import Json
from csi.operator.datasets.seen import FINALIZER, WARNING, Decision, Deletion, Event, Seen
from csi.operator.names import DATASET_KIND, owner_reference
from csi.operator.watching import name_of

#: Most pods that a message names.
NAMED_MAX = 5


def is_deleting(found: Json | None) -> bool:
    """Whether somebody has asked for the deletion of an object that is still there."""
    return found is not None and bool(found["metadata"].get("deletionTimestamp"))


def delete_volumes(volumes: Iterable[Json], decision: Decision) -> None:
    """Has volumes deleted, those of other drivers left alone."""
    for volume in volumes:
        if (volume["spec"].get("csi") or {}).get("driver") == driver.NAME and not is_deleting(volume):
            uid = volume["metadata"]["uid"]
            decision.deletions.append(Deletion(resource=store.VOLUMES, name=name_of(volume), uid=uid))


def metadata_to_apply(
    kind: str,
    found: Json,
    *,
    finalizers: list[str],
    owners: list[dict[str, Any]] | None = None,
    is_always: bool = False,
) -> dict[str, Any] | None:
    """What is applied to have these finalizers of ours and owners; None if that is so already.

    ``is_always``: not None then either, as writing it tells whether the object is still there.
    """
    metadata = found["metadata"]
    has = FINALIZER in (metadata.get("finalizers") or ())
    present = {reference["uid"] for reference in metadata.get("ownerReferences") or ()}
    wanted = {reference["uid"] for reference in owners or ()}
    if has == (FINALIZER in finalizers) and wanted <= present and not is_always:
        return None
    applied: dict[str, Any] = {name: metadata[name] for name in ("name", "namespace", "uid")}
    applied["finalizers"] = finalizers
    if owners is not None:
        # Fluid's controller sets no blockOwnerDeletion either: the garbage collector needs no right on finalizers.
        applied["ownerReferences"] = owners
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": applied}


def dataset_reference(dataset: Json) -> dict[str, Any]:
    """To the owner of a runtime, which may have a controller already: whatever made it for its user."""
    return owner_reference(DATASET_KIND, ObjectMeta.model_validate(dataset["metadata"]), is_controller=False)


def there(found: Json | None) -> Json:
    """An object that must be there."""
    if found is None:
        raise DriverError(Code.INTERNAL, "an object is missing that was there")
    return found


def age_seconds(found: Json, seen: Seen) -> float:
    """How long an object has been there."""
    return (seen.now - datetime.fromisoformat(found["metadata"]["creationTimestamp"])).total_seconds()


def warn(about: Json, kind: str, reason: str, message: str, decision: Decision) -> None:
    """Has an event posted."""
    decision.events.append(Event(about=about, kind=kind, type=WARNING, reason=reason, message=message))
