"""Decides what to do for a Dataset with its runtime when neither is being deleted, by a sequence of checks.

Are the specs valid, do the objects exist, can the source be reached, are claim and volume bound? A check that fails is
an obstacle: it is reported in the condition ``Ready``, and existing objects are left as they are.
"""

from collections.abc import Mapping
from typing import Any

from csi.api.dataset import Phase
from csi.api.status import CacheStates, ConditionType
from csi.base.addresses import joined_address
from csi.config.several import Sources, origin_of, short_form
from csi.operator import pki, store
from csi.operator.cluster import Json
from csi.operator.datasets import conditions, statuses, told
from csi.operator.datasets.conditions import Said
from csi.operator.datasets.preparing import is_stored, prepared
from csi.operator.datasets.seen import FINALIZER, NORMAL, WARNING, Decision, Deletion, Event, No, Place, Seen, if_owned
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
from csi.operator.masters import Master
from csi.operator.names import DATASET_KIND, LEADER_LABEL, MASTER_ROLE, ROLE_LABEL, RUNTIME_KIND, Names, is_our_volume
from csi.operator.objects.settings import Settings
from csi.operator.objects.volume import place_in_force
from csi.operator.objects.wanted import Wanted
from csi.operator.watching import name_of

#: Nodes that a condition names.
_NODES_NAMED_MAX = 5
#: After which an object that the API server refused is tried again, and a name that is taken is looked at again.
REFUSED_AGAIN_SECONDS = 10.0
#: How long a new Dataset has no status while it is being prepared.
QUIET_SECONDS = 2.0
#: A certificate that is not renewed in time for other reasons is looked at so often at least.
_DAY_SECONDS = 86_400.0


class Both:
    """A Dataset with its runtime, none of them being deleted."""

    def __init__(self, seen: Seen, settings: Settings, decision: Decision) -> None:
        self._seen, self._settings, self._decision = seen, settings, decision
        self._dataset_json, self._runtime_json = there(seen.dataset), there(seen.runtime)
        self._prepared = prepared(seen, settings, self._dataset_json, self._runtime_json)
        decision.prepared = self._prepared
        self._dataset, self._runtime = self._prepared.models(seen)
        self._names = Names.of(self._dataset.metadata)
        self._was_bound = conditions.holds(self._dataset.status, ConditionType.INITIALIZED)
        self._place, self._wanted = self._prepared.place, self._prepared.wanted
        self._updating: Said | None = None
        self._reachable: Said | None = None
        self._leader: Json | None = None

    def decide(self) -> None:
        """Fills the decision in."""
        seen, decision = self._seen, self._decision
        decision.runtime_metadata = metadata_to_apply(
            RUNTIME_KIND,
            self._runtime_json,
            finalizers=[FINALIZER],
            owners=[dataset_reference(self._dataset_json)],
        )
        # A runtime with an owner that has gone would go as well: the Dataset is written first, and tells.
        decision.dataset_metadata = metadata_to_apply(
            DATASET_KIND,
            self._dataset_json,
            finalizers=[FINALIZER],
            is_always=decision.runtime_metadata is not None,
        )
        # Of a Dataset of this name that was before, or of a claim that somebody has deleted: it is bound to no other.
        if seen.claim is None:
            delete_volumes((one for one in seen.volumes if not self._is_ours(one)), decision)
        if seen.claim is None or _phase(seen.claim) != "Bound":
            delete_volumes((one for one in seen.volumes if _phase(one) == "Released"), decision)
        obstacle = self._spec_obstacle() or self._objects_obstacle()
        self._look_at_nodes()
        self._look_at_source()
        obstacle = obstacle or self._source_obstacle() or self._bound_obstacle()
        self._lead()
        self._instruct()
        self._say(obstacle)

    def keep_up(self) -> None:
        """All that goes on while a deletion waits: nothing is made, but what is there is looked after."""
        obstacle = self._spec_obstacle()
        self._look_at_source()
        obstacle = obstacle or self._source_obstacle()
        self._lead()
        self._instruct(is_retired=True)
        self._say(obstacle)
        self._decision.probe = None

    # ----- what they say

    def _spec_obstacle(self) -> No | None:
        if self._prepared.again_seconds is not None:
            self._decision.again_in(self._prepared.again_seconds)
        return self._prepared.no

    def _volume(self) -> Json | None:
        return self._seen.volume_of(self._names, driver=self._settings.driver)

    def _own(self, found: Json | None) -> Json | None:
        return if_owned(found, self._runtime.metadata)

    def _is_ours(self, volume: Json) -> bool:
        return is_our_volume(volume, self._names, driver=self._settings.driver)

    # ----- the objects

    def _objects_obstacle(self) -> No | None:
        """Has objects made; says which of them cannot be."""
        seen, wanted, decision = self._seen, self._wanted, self._decision
        if wanted is None:
            return None
        if leftovers := self._leftovers():
            decision.again_in(REFUSED_AGAIN_SECONDS)
            return self._left_behind(leftovers)
        decision.objects.extend(one for one in wanted.objects() if self._is_due(one, wanted))
        if wanted.needs_new_volume:
            self._renew_volume(wanted.needs_new_volume)
        decision.again_in(self._renewal_seconds())
        if seen.claim is not None and _phase(seen.claim) == "Lost":
            return self._replace_lost_claim(seen.claim)
        for label, words in sorted({**seen.taken, **seen.refused}.items()):
            decision.again_in(REFUSED_AGAIN_SECONDS)
            kind, _, name = label.partition("/")
            if label in seen.taken:
                return No(reason="NameTaken", message=words)
            if kind != "StatefulSet":
                return No(reason="Refused", message=f"{kind} {name!r} cannot be made: {words}")
        return None

    def _is_due(self, one: Json, wanted: Wanted) -> bool:
        """Whether an object is to be there by now, and as it is wanted."""
        kind, authority = one["kind"], wanted.authority
        if kind in {"PersistentVolumeClaim", "PersistentVolume"}:
            is_new_claim = kind == "PersistentVolumeClaim" and self._seen.claim is None
            return self._may_bind() and (not is_new_claim or self._is_offered())
        if kind in {"Secret", "StatefulSet"} and one is not authority:
            # An authority that is not stored is another one at the next look, and so is what it signs.
            return is_stored(authority, self._seen.secrets.authority)
        return True

    def _leftovers(self) -> dict[str, Json]:
        """Objects of a former runtime of this name that are still there, by KIND/NAME."""
        seen, names = self._seen, self._names
        present = {
            f"service/{names.master}": seen.service,
            f"statefulset/{names.master}": seen.master,
            f"statefulset/{names.workers}": seen.workers,
            f"persistentvolumeclaim/{names.claim}": seen.claim,
        }
        return {label: one for label, one in present.items() if one is not None and self._own(one) is None}

    def _left_behind(self, leftovers: Mapping[str, Json]) -> No:
        """The garbage collector is about to come for what has an owner that is gone, and for nothing else."""
        orphans = [label for label, one in leftovers.items() if not one["metadata"].get("ownerReferences")]
        whose = "objects of a former runtime of this name"
        if not orphans:
            return No(reason="Preparing", message=f"{whose} are still being deleted: {', '.join(leftovers)}")
        command = f"kubectl -n {self._names.namespace} delete {' '.join(orphans)}"
        return No(reason="Orphaned", message=f"{whose} have no owner (--cascade=orphan), delete them: {command}")

    def _may_bind(self) -> bool:
        """Whether claim and volume are to be there: from when the source was reached first."""
        return self._seen.claim is not None or self._was_bound or self._is_reached()

    def _is_offered(self) -> bool:
        """Whether Kubernetes knows the volume: it looks at a claim that came before it again only after 15 s."""
        return any(self._is_ours(one) and _phase(one) == "Available" for one in self._seen.volumes)

    def _renew_volume(self, differences: tuple[str, ...]) -> None:
        """A volume cannot be changed: another one is made when nobody uses it."""
        seen, decision = self._seen, self._decision
        named = ", ".join(differences)
        decision.objects = [
            one for one in decision.objects if one["kind"] not in {"PersistentVolumeClaim", "PersistentVolume"}
        ]
        users = [pod for pod in seen.users if not statuses.has_ended(pod)]
        if users:
            first = users[0]["metadata"]["name"]
            more = f" and {len(users) - 1} more" if len(users) > 1 else ""
            message = f"{named} cannot change while pods use the Dataset: end pod {first}{more}, or change it back"
            self._updating = Said(type=ConditionType.UPDATING, status=False, reason="InUse", message=message)
            return
        message = f"claim and volume are recreated with another {named}"
        self._updating = Said(type=ConditionType.UPDATING, status=True, reason="NewVolume", message=message)
        if seen.claim is not None:
            if not is_deleting(seen.claim):
                uid = seen.claim["metadata"]["uid"]
                decision.deletions.append(Deletion(resource=store.CLAIMS, name=name_of(seen.claim), uid=uid))
            return
        delete_volumes(seen.volumes, decision)

    def _look_at_nodes(self) -> None:
        """Sources that come or go are in force when all nodes that use the Dataset have been told."""
        figures, source = self._seen.figures.latest, self._place_in_force().source
        if self._updating is not None or figures is None or not source.startswith("["):
            return
        has = ("", source, short_form(source))
        late = [node.node for node in figures.nodes if node.connected and node.sources not in has]
        if late:
            message = f"nodes are being told about added and removed mounts: {', '.join(late[:_NODES_NAMED_MAX])}"
            self._updating = Said(type=ConditionType.UPDATING, status=True, reason="Mounts", message=message)
            self._decision.again_in(1.0)

    def _replace_lost_claim(self, claim: Json) -> No:
        """Another claim is made for one whose volume was taken away by force: Kubernetes never binds it again."""
        users = [pod["metadata"]["name"] for pod in self._seen.users if not statuses.has_ended(pod)]
        lost = f"the volume of claim {self._names.claim!r} was deleted by force, and Kubernetes never binds it again"
        if users:
            named = ", ".join(users[:NAMED_MAX])
            return No(reason="ClaimLost", message=f"{lost}: end pods {named} to have the claim recreated")
        if not is_deleting(claim):
            uid = claim["metadata"]["uid"]
            self._decision.deletions.append(Deletion(resource=store.CLAIMS, name=name_of(claim), uid=uid))
        return No(reason="Preparing", message=f"{lost}: the claim is being recreated")

    def _renewal_seconds(self) -> float:
        due = self._prepared.due
        return _DAY_SECONDS if due is None else min(_DAY_SECONDS, max(60.0, (due - self._seen.now).total_seconds()))

    # ----- the source

    def _place_in_force(self) -> Place:
        """The source in force: another one that is refused for the pods that use the Dataset is none."""
        volume = self._volume()
        if volume is not None and self._updating is not None and not self._updating.status:
            return _place_of(*place_in_force(volume))
        return self._place

    def _is_updating(self) -> bool:
        return self._updating is not None and bool(self._updating.status)

    def _is_reached(self) -> bool:
        seen, probe = self._seen, self._seen.probe
        if seen.figures.latest is not None and seen.figures.connected and seen.figures.latest.source.known:
            return seen.figures.latest.source.reachable
        return probe is not None and probe.source == self._place_in_force().source and not probe.reason

    def _look_at_source(self) -> None:
        """What is known of the source: by the master once it looks, before that by ourselves."""
        seen, before = self._seen, self._dataset.status
        if self._wanted is None:
            return
        place = self._place_in_force()
        self._decision.source = place.source
        figures = seen.figures.latest
        if figures is not None and seen.figures.connected and figures.source.known:
            self._reachable = _reachability(reason="" if figures.source.reachable else figures.source.reason)
            return
        if seen.probe is not None and seen.probe.source == place.source:
            self._reachable = _reachability(reason=seen.probe.reason)
            if seen.probe.reason:
                self._decision.probe = place
            return
        if self._was_bound and conditions.holds(before, ConditionType.SOURCE_REACHABLE) and not self._is_updating():
            # It was reached by an operator before this one: no reason to ask all sources at once.
            self._reachable = _reachability(reason="")
            return
        self._decision.probe = place

    def _source_obstacle(self) -> No | None:
        if self._wanted is None:
            return None
        if self._reachable is None:
            return No(reason="Preparing", message="the driver is checking whether it can reach the source")
        if not self._reachable.status:
            return No(reason="SourceUnreachable", message=self._reachable.message)
        return None

    def _bound_obstacle(self) -> No | None:
        if self._wanted is None:
            return None
        seen = self._seen
        claim, volume = self._own(seen.claim), self._volume()
        if claim is None or volume is None:
            return No(reason="Preparing", message="claim and volume are being made")
        if _phase(claim) != "Bound":
            return No(reason="Preparing", message="Kubernetes has not bound the claim to its volume yet")
        return None

    # ----- the master

    def _lead(self) -> None:
        """One ready master leads: the Service selects it by its label."""
        masters = [pod for pod in self._seen.pods if pod["metadata"]["labels"].get(ROLE_LABEL) == MASTER_ROLE]
        leader = _leader(masters)
        for pod in masters:
            has = pod["metadata"]["labels"].get(LEADER_LABEL) == "true"
            should = leader is not None and name_of(pod) == name_of(leader)
            if should != has and (should or leader is not None):
                self._decision.labels.append((name_of(pod), {LEADER_LABEL: "true" if should else None}))
        self._leader = leader

    def _instruct(self, *, is_retired: bool = False) -> None:
        wanted, seen, leader = self._wanted, self._seen, self._leader
        if wanted is None or leader is None or seen.secrets.authority is None or seen.secrets.node is None:
            return
        configuration = told.configuration(
            self._dataset,
            self._runtime,
            place=self._place_in_force(),
            options=self._prepared.options,
            seen=seen,
            cache=wanted.cache,
            is_retired=is_retired,
        )
        port = next(iter(leader["ports"]), 0)
        self._decision.master = Master(
            address=joined_address(leader["address"], port),
            authority=pki.files(seen.secrets.authority),
            configuration=configuration,
        )

    # ----- what is said

    def _say(self, obstacle: No | None) -> None:
        seen, decision = self._seen, self._decision
        if obstacle is not None and obstacle.reason == "Preparing" and not self._dataset.status.get("phase"):
            # In a moment there is more to say; objects that are made by the hundred are told of once.
            age = age_seconds(self._dataset_json, seen)
            if age < QUIET_SECONDS:
                decision.again_in(QUIET_SECONDS - age)
                return
        phase = self._phase(obstacle)
        masters = min(3, max(1, self._runtime.spec.master.replicas))
        replicas = 0 if self._runtime.spec.worker.disabled else max(0, self._runtime.spec.replicas)
        parts = statuses.parts_of(seen, replicas=replicas, masters=masters)
        quota = self._wanted.cache.quota_bytes if self._wanted else 0
        total, files, cache, totals_known = statuses.figures_of(seen, quota_bytes=quota, workers=parts.workers)
        if phase is Phase.NOT_BOUND:
            total, files, cache = "", "", CacheStates()
        ignored = self._ignored()
        said = [self._ready(obstacle), self._initialized(obstacle)]
        said += [one for one in (self._updating, self._reachable) if one is not None]
        if phase is not Phase.NOT_BOUND:
            said.append(totals_known)
        said += ignored
        verdict = Verdict(phase=phase, said=said, ufs_total=total, file_num=files, cache=cache)
        decision.dataset_status = statuses.dataset_status(self._dataset, self._runtime, verdict, seen)
        runtime_said = [*self._parts_said(parts), *ignored]
        decision.runtime_status = statuses.runtime_status(
            self._runtime, seen, parts=parts, said=runtime_said, cache=cache
        )
        self._announce(decision.dataset_status)
        if parts.workers.ready < parts.workers.desired or parts.master.ready < parts.master.desired:
            decision.again_in(REFUSED_AGAIN_SECONDS)

    def _phase(self, obstacle: No | None) -> Phase:
        if self._is_updating():
            return Phase.UPDATING
        if obstacle is None:
            return Phase.BOUND
        if not self._was_bound:
            return Phase.NOT_BOUND
        if obstacle.reason == "Preparing" and self._dataset.status.get("phase") == Phase.BOUND:
            return Phase.BOUND  # what only takes its time does not make a failure of what worked
        return Phase.FAILED

    def _ready(self, obstacle: No | None) -> Said:
        if obstacle is None:
            return Said(type=ConditionType.READY, status=True, reason="DatasetReady", message="pods can use it")
        return Said(type=ConditionType.READY, status=False, reason=obstacle.reason, message=obstacle.message)

    def _initialized(self, obstacle: No | None) -> Said:
        if obstacle is None or self._was_bound:
            return Said(type=ConditionType.INITIALIZED, status=True, reason="DatasetInitialized")
        return Said(type=ConditionType.INITIALIZED, status=False, reason="NotBoundYet")

    def _ignored(self) -> list[Said]:
        fields = self._prepared.ignored
        if not fields:
            return []
        message = f"these fields have no effect: {', '.join(fields)}"
        return [Said(type=ConditionType.FIELDS_IGNORED, status=True, reason="NoEffect", message=message)]

    def _parts_said(self, parts: Parts) -> list[Said]:
        refused = {label: words for label, words in self._seen.refused.items() if label.startswith("StatefulSet/")}
        said = []
        for kind, part, name in (
            (ConditionType.MASTER_READY, parts.master, self._names.master),
            (ConditionType.WORKERS_READY, parts.workers, self._names.workers),
            (ConditionType.FUSES_READY, parts.fuses, ""),
        ):
            ready = part.ready >= part.desired
            message = refused.get(f"StatefulSet/{name}", "") or part.reason
            message = message or ("" if ready else f"{part.ready} of {part.desired} are ready")
            said.append(Said(type=kind, status=ready, reason=str(part.phase), message=message))
        said += self._scaled(parts.workers)
        return said

    def _scaled(self, workers: Part) -> list[Said]:
        """Whether workers were taken or added since the first time."""
        before = self._runtime.status
        former = before.get("desiredWorkerNumberScheduled")
        kept = []
        for kind, happened in (
            (ConditionType.WORKERS_SCALED_IN, former is not None and workers.desired < former),
            (ConditionType.WORKERS_SCALED_OUT, bool(former) and workers.desired > (former or 0)),
        ):
            present = conditions.present(before, kind)
            if happened:
                message = f"from {former} to {workers.desired}"
                kept.append(Said(type=kind, status=True, reason="ReplicasChanged", message=message))
            elif present:
                kept.append(
                    Said(
                        type=kind,
                        status=True,
                        reason=str(present.get("reason", "")),
                        message=str(present.get("message", "")),
                    )
                )
        return kept

    def _announce(self, status: Mapping[str, Any]) -> None:
        """An event for each change of what people are waiting for."""
        before = conditions.present(self._dataset.status, ConditionType.READY)
        after = conditions.present(status, ConditionType.READY)
        same = all(before.get(name) == after.get(name) for name in ("status", "reason", "message"))
        if not same and after.get("reason") != "Preparing":
            is_ready = after["status"] == "True"
            self._decision.events.append(
                Event(
                    about=self._dataset_json,
                    kind=DATASET_KIND,
                    type=NORMAL if is_ready else WARNING,
                    reason=str(after["reason"]),
                    message=str(after.get("message", "")),
                )
            )
        refusal = self._updating
        if refusal is not None and not refusal.status:
            warn(self._dataset_json, DATASET_KIND, refusal.reason, refusal.message, self._decision)


def _place_of(root: str, path: str) -> Place:
    """What a volume says of where the data is."""
    origin = origin_of(root)
    if isinstance(origin, Sources):
        return Place(source=root, root=root)
    return Place(source=origin.beneath(path).canonical(), root=origin.canonical())


def _phase(found: Json) -> str:
    """Of a claim or a volume."""
    return str((found.get("status") or {}).get("phase", ""))


def _reachability(*, reason: str) -> Said:
    return Said(
        type=ConditionType.SOURCE_REACHABLE,
        status=not reason,
        reason="Unreachable" if reason else "Reachable",
        message=reason,
    )


def _leader(masters: list[Json]) -> Json | None:
    """The master that leads: the one that does, as long as it is ready; else the first that is."""
    ready = [pod for pod in masters if statuses.is_ready(pod)]
    leading = [pod for pod in ready if pod["metadata"]["labels"].get(LEADER_LABEL) == "true"]
    return next(iter([*leading, *ready]), None)
