"""Decides what to do for one key, from what was observed of it: a pure function.

The checks come in the order of the functions: is anything being deleted, do both objects exist, does somebody else
serve them; then those about both (:mod:`csi.operator.datasets.both`). A check that fails ends the decision, is reported
in the condition ``Ready``, and leaves existing objects as they are. What users have mounted is never taken away from
them but by deletion, which waits for them.
"""

import logging
from datetime import datetime

from csi.api.dataset import Dataset, Phase
from csi.api.efcruntime import EFCRuntime
from csi.api.status import ConditionType
from csi.operator import store
from csi.operator.cluster import Json
from csi.operator.datasets import statuses
from csi.operator.datasets.both import Both
from csi.operator.datasets.conditions import Said
from csi.operator.datasets.seen import WARNING, Decision, Deletion, Event, Seen
from csi.operator.datasets.statuses import Part, Parts, Verdict
from csi.operator.datasets.steps import (
    NAMED_MAX,
    age_seconds,
    dataset_reference,
    delete_volumes,
    is_deleting,
    metadata_to_apply,
    there,
    warn,
)
from csi.operator.names import DATASET_KIND, RUNTIME_KIND
from csi.operator.objects.settings import Settings
from csi.operator.watching import name_of

_LOGGER = logging.getLogger(__name__)
#: How long a deletion waits for daemons that stay without pods.
RETIRE_SECONDS_MAX = 10.0
#: Within which an object that is alone may get what it belongs to without a warning.
ALONE_SECONDS = 5.0


def decide(seen: Seen, settings: Settings) -> Decision:
    """What is to be done."""
    decision = Decision()
    if seen.dataset is None and seen.runtime is None:
        _clear_away(seen, decision)
    elif is_deleting(seen.dataset) or is_deleting(seen.runtime):
        _delete(seen, settings, decision)
    elif seen.dataset is None:
        _without_dataset(seen, decision)
    elif seen.runtime is None:
        _without_runtime(seen, decision)
    elif seen.rival is not None:
        _stay_away(seen, decision)
    else:
        Both(seen, settings, decision).decide()
    return decision


# ------------------------------------------------------------ deletion


def _clear_away(seen: Seen, decision: Decision) -> None:
    """Deletes volumes whose Dataset and claim are no more: no owner can do that, a volume is in no namespace."""
    if seen.claim is None:
        delete_volumes(seen.volumes, decision)


def _delete(seen: Seen, settings: Settings, decision: Decision) -> None:
    """Waits for pods, then has claim and volume deleted, then lets Dataset and runtime go.

    All the rest belongs to the runtime, and goes after it. Meanwhile all works on, and nodes are told that their
    daemons need not stay.
    """
    if seen.dataset is not None and seen.runtime is not None and seen.rival is None:
        _keep_up(seen, settings, decision)
    users = [pod for pod in seen.users if not statuses.has_ended(pod)]
    claim = seen.claim
    if claim is not None and users:
        _say_who(seen, users, decision)
        return
    if _daemons_serve(seen):
        decision.again_in(1.0)
        return
    if claim is not None:
        if not is_deleting(claim):
            uid = claim["metadata"]["uid"]
            decision.deletions.append(Deletion(resource=store.CLAIMS, name=name_of(claim), uid=uid))
        return
    if seen.volumes:
        delete_volumes(seen.volumes, decision)
        return
    _let_go(seen, decision)


def _let_go(seen: Seen, decision: Decision) -> None:
    """Lets Dataset and runtime go; the runtime of a Dataset that goes goes with it.

    The Dataset is written first: if it has gone, the runtime may have been made after that, and is no more its.
    """
    dataset, runtime = seen.dataset, seen.runtime
    decision.dataset_status = decision.runtime_status = None
    goes_along = is_deleting(dataset) and runtime is not None and not is_deleting(runtime)
    if runtime is not None:
        owners = [dataset_reference(dataset)] if dataset is not None else []
        decision.runtime_metadata = metadata_to_apply(RUNTIME_KIND, runtime, finalizers=[], owners=owners)
        if goes_along:
            uid = runtime["metadata"]["uid"]
            decision.deletions.append(Deletion(resource=store.RUNTIMES, name=name_of(runtime), uid=uid))
    if dataset is not None:
        decision.forget = dataset["metadata"]["uid"]
        is_always = goes_along or decision.runtime_metadata is not None
        decision.dataset_metadata = metadata_to_apply(DATASET_KIND, dataset, finalizers=[], is_always=is_always)


def _keep_up(seen: Seen, settings: Settings, decision: Decision) -> None:
    """Looks after what is there; whatever is wrong with it, it can be deleted, and its namespace with it."""
    try:
        Both(seen, settings, decision).keep_up()
    except Exception:
        _LOGGER.exception("%s/%s is being deleted, and is not looked after until then", *seen.name)


def _daemons_serve(seen: Seen) -> bool:
    """Whether nodes that have been told to let their daemons go still have some, and it is not too long ago."""
    began = [
        datetime.fromisoformat(found["metadata"]["deletionTimestamp"])
        for found in (seen.dataset, seen.runtime)
        if found is not None and is_deleting(found)
    ]
    figures = seen.figures.latest
    if figures is None or not seen.figures.connected or (seen.now - min(began)).total_seconds() > RETIRE_SECONDS_MAX:
        return False
    return any(node.serving and node.connected for node in figures.nodes)


def _say_who(seen: Seen, users: list[Json], decision: Decision) -> None:
    named = ", ".join(f"{pod['metadata']['namespace']}/{pod['metadata']['name']}" for pod in users[:NAMED_MAX])
    more = f" and {len(users) - NAMED_MAX} more" if len(users) > NAMED_MAX else ""
    message = f"the deletion waits for pods that use claim {seen.name[1]}: end {named}{more}"
    for kind, found in ((DATASET_KIND, seen.dataset), (RUNTIME_KIND, seen.runtime)):
        if found is not None and is_deleting(found):
            decision.events.append(
                Event(about=found, kind=kind, type=WARNING, reason="ErrorDeleteDataset", message=message)
            )


# ------------------------------------------------------------ one without the other


def _dataset(found: Json) -> Dataset:
    return Dataset.model_validate(found)


def _runtime(found: Json) -> EFCRuntime:
    return EFCRuntime.model_validate(found)


def _without_dataset(seen: Seen, decision: Decision) -> None:
    found = there(seen.runtime)
    runtime = _runtime(found)
    message = (
        f"there is no Dataset {seen.name[1]!r} in namespace {seen.name[0]!r}: create one; until then nothing is made"
    )
    parts = Parts(
        master=Part(desired=max(1, runtime.spec.master.replicas), reason=message),
        workers=Part(desired=max(0, runtime.spec.replicas), reason=message),
    )
    said = [
        Said(type=kind, status=False, reason="DatasetNotFound", message=message)
        for kind in (ConditionType.MASTER_READY, ConditionType.WORKERS_READY)
    ]
    decision.runtime_metadata = metadata_to_apply(RUNTIME_KIND, found, finalizers=[])
    decision.runtime_status = statuses.runtime_status(runtime, seen, parts=parts, said=said)
    if seen.claim is None:
        delete_volumes(seen.volumes, decision)
    if _is_alone_for_long(found, seen, decision):
        warn(found, RUNTIME_KIND, "DatasetNotFound", message, decision)


def _without_runtime(seen: Seen, decision: Decision) -> None:
    """A Dataset of which nothing is ours to serve; what its runtime left goes first."""
    found = there(seen.dataset)
    dataset = _dataset(found)
    decision.forget = dataset.metadata.uid
    decision.dataset_metadata = metadata_to_apply(DATASET_KIND, found, finalizers=[])
    if seen.claim is None:
        delete_volumes(seen.volumes, decision)
    if seen.other_runtimes:
        kinds = " and ".join(seen.other_runtimes)
        reason = "OtherRuntime"
        message = f"its runtime is of kind {kinds}, which is not served here: create an EFCRuntime {seen.name[1]!r}"
        if dataset.status.get("phase", "") not in ("", Phase.NOT_BOUND):
            return  # somebody else serves it
    else:
        reason = "NoRuntime"
        message = f"there is no EFCRuntime {seen.name[1]!r} in namespace {seen.name[0]!r}: create one"
    if _is_alone_for_long(found, seen, decision):
        warn(found, DATASET_KIND, reason, message, decision)
    verdict = Verdict(
        phase=Phase.NOT_BOUND,
        said=[Said(type=ConditionType.READY, status=False, reason=reason, message=message)],
    )
    decision.dataset_status = statuses.dataset_status(dataset, None, verdict, seen)


def _is_alone_for_long(found: Json, seen: Seen, decision: Decision) -> bool:
    """Whether an object waits for what it belongs to longer than two objects of one file do."""
    age = age_seconds(found, seen)
    if age < ALONE_SECONDS:
        decision.again_in(ALONE_SECONDS - age)
    return age >= ALONE_SECONDS


def _stay_away(seen: Seen, decision: Decision) -> None:
    message = (
        f"Fluid's own controller of EFCRuntimes runs here (Deployment {seen.rival}), so the driver's operator leaves "
        "this one alone: scale that Deployment to 0 to have it served by the driver"
    )
    decision.master = None
    for kind, found in ((DATASET_KIND, there(seen.dataset)), (RUNTIME_KIND, there(seen.runtime))):
        warn(found, kind, "FluidServesIt", message, decision)
