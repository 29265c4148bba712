"""What the operator writes into ``status``: valid under CRDs of ours, and under Fluid's, which may be those installed.

Fluid's require a Dataset's ``conditions``, and of an EFCRuntime ``valueFile``, the three phases and nine numbers: a
status always has them, also when there is nothing to say. What Fluid's do not have is left out for them on request,
since server-side apply refuses a field that it finds in no schema.
"""

from enum import StrEnum
from typing import Annotated, Any

from pydantic import Field

from csi.api.common import Model
from csi.api.dataset import Mount, RuntimeReference
from csi.api.fields import Doc
from csi.api.kubernetes import Int32, Int64, NodeAffinity, Time


class ConditionType(StrEnum):
    """Types of conditions. Those without a note are Fluid's."""

    # Of a Dataset.
    READY = "Ready"
    NOT_READY = "NotReady"
    INITIALIZED = "Initialized"
    UPDATING = "Updating"
    # Of a Dataset, and ours.
    SOURCE_REACHABLE = "SourceReachable"
    TOTALS_KNOWN = "TotalsKnown"
    # Of both, and ours.
    FIELDS_IGNORED = "FieldsIgnored"
    # Of an EFCRuntime.
    MASTER_READY = "MasterReady"
    WORKERS_READY = "WorkersReady"
    FUSES_READY = "FusesReady"
    WORKERS_SCALED_IN = "WorkersScaledIn"
    WORKERS_SCALED_OUT = "WorkersScaledOut"


class ConditionStatus(StrEnum):
    """Whether a condition holds."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


class PartPhase(StrEnum):
    """How much of a runtime's masters, workers or fuses is ready. None desired is READY."""

    NONE = ""
    NOT_READY = "NotReady"
    PARTIAL_READY = "PartialReady"
    READY = "Ready"

    @classmethod
    def of(cls, *, ready: int, desired: int) -> "PartPhase":
        """The phase of a part of which ``ready`` out of ``desired`` are ready."""
        if ready >= desired:
            return cls.READY
        return cls.PARTIAL_READY if ready > 0 else cls.NOT_READY


class Condition(Model):
    """One condition. Times are RFC 3339, and empty times are left out."""

    type: Annotated[str, Doc("Type of the condition.")]
    status: Annotated[str, Doc("`True`, `False` or `Unknown`.")]
    reason: Annotated[str, Doc("The reason, in one word.")] = ""
    message: Annotated[str, Doc("The reason, in a sentence.")] = ""
    last_transition_time: Annotated[Time, Doc("When `status` last changed.")] = ""


class DatasetCondition(Condition):
    """A condition of a Dataset."""

    last_update_time: Annotated[Time, Doc("When anything of the condition last changed.")] = ""


class RuntimeCondition(Condition):
    """A condition of an EFCRuntime."""

    last_probe_time: Annotated[Time, Doc("When anything of the condition last changed.")] = ""


class CacheStates(Model):
    """Figures of the cache as people read them (:mod:`csi.api.quantities`); "" is not known, and left out."""

    cached: str = ""
    cache_capacity: str = ""
    cached_percentage: str = ""
    cache_hit_ratio: str = ""
    local_hit_ratio: str = ""
    remote_hit_ratio: str = ""
    cache_throughput_ratio: str = ""
    local_throughput_ratio: str = ""
    remote_throughput_ratio: str = ""


class WorkerCache(Model):
    """What one worker holds."""

    name: Annotated[str, Doc("Name of the worker's pod.")] = ""
    cached: Annotated[str, Doc("Size of the Dataset's blocks in the worker, such as `3.33GiB`.")] = ""


class Hcfs(Model):
    """Never set: there is no HCFS here."""

    endpoint: Annotated[str, Doc("Stays empty.")] = ""
    underlayer_file_system_version: Annotated[str, Doc("Stays empty.")] = ""


class ApiGateway(Model):
    """Never set: there is no gateway here."""

    endpoint: Annotated[str, Doc("Stays empty.")] = ""


_CacheStates = Annotated[
    CacheStates, Doc("Figures of the cache: sizes such as `10.00GiB`, percentages such as `99.5%`.")
]


class DatasetStatus(Model):
    """The status of a Dataset."""

    observed_generation: Annotated[Int64, Doc("Generation of the Dataset to which this status belongs.")] = 0
    phase: Annotated[str, Doc("`NotBound`, `Bound`, `Updating` or `Failed`.")] = ""
    conditions: Annotated[tuple[DatasetCondition, ...], Doc("Present conditions.")] = ()
    mounts: Annotated[tuple[Mount, ...], Doc("The mounts that are in force.")] = ()
    ufs_total: Annotated[str, Doc("Sum of the sizes of all regular files, such as `10.00GiB`.")] = ""
    file_num: Annotated[str, Doc("Number of regular files.")] = ""
    cache_states: _CacheStates = CacheStates()
    runtimes: Annotated[tuple[RuntimeReference, ...], Doc("The runtime that serves the Dataset.")] = ()
    hcfs: Annotated[Hcfs | None, Doc("Stays empty.")] = None
    data_load_ref: Annotated[str, Doc("Stays empty.")] = ""
    data_backup_ref: Annotated[str, Doc("Stays empty.")] = ""
    operation_ref: Annotated[dict[str, str], Doc("Stays empty.")] = Field(default_factory=dict)
    dataset_ref: Annotated[tuple[str, ...], Doc("Stays empty.")] = ()

    def written(self, *, is_ours: bool = True) -> dict[str, Any]:
        """The status as JSON, ``conditions`` always in it; ``is_ours``: whether the installed CRD is ours."""
        written = _written(self, required=("conditions",))
        return written if is_ours else _without_ours(written)


#: What Fluid's CRD of EFCRuntime requires.
_RUNTIME_REQUIRES = (
    "value_file", "master_phase", "worker_phase", "fuse_phase",
    "desired_master_number_scheduled", "current_master_number_scheduled", "master_number_ready",
    "desired_worker_number_scheduled", "current_worker_number_scheduled", "worker_number_ready",
    "desired_fuse_number_scheduled", "current_fuse_number_scheduled", "fuse_number_ready",
)  # fmt: skip


class RuntimeStatus(Model):
    """The status of an EFCRuntime.

    *Fuses* are nodes: desired where pods use the Dataset, ready where its daemon serves.
    """

    observed_generation: Annotated[Int64, Doc("Generation of the runtime to which this status belongs.")] = 0
    master_phase: Annotated[str, Doc("`NotReady`, `PartialReady` or `Ready`: of the masters.")] = PartPhase.NONE
    master_reason: Annotated[str, Doc("Why masters are not ready.")] = ""
    worker_phase: Annotated[str, Doc("`NotReady`, `PartialReady` or `Ready`: of the workers.")] = PartPhase.NONE
    worker_reason: Annotated[str, Doc("Why workers are not ready.")] = ""
    fuse_phase: Annotated[str, Doc("`NotReady`, `PartialReady` or `Ready`: of the daemons.")] = PartPhase.NONE
    fuse_reason: Annotated[str, Doc("Why daemons are not ready.")] = ""
    desired_master_number_scheduled: Annotated[Int32, Doc("Desired number of masters.")] = 0
    current_master_number_scheduled: Annotated[Int32, Doc("Number of masters that exist.")] = 0
    master_number_ready: Annotated[Int32, Doc("Number of masters that are ready.")] = 0
    desired_worker_number_scheduled: Annotated[Int32, Doc("Desired number of workers.")] = 0
    current_worker_number_scheduled: Annotated[Int32, Doc("Number of workers that exist.")] = 0
    worker_number_ready: Annotated[Int32, Doc("Number of workers that are ready.")] = 0
    worker_number_available: Annotated[Int32, Doc("The same as the number that is ready.")] = 0
    worker_number_unavailable: Annotated[Int32, Doc("Number of desired workers that are not ready.")] = 0
    desired_fuse_number_scheduled: Annotated[Int32, Doc("Number of nodes on which pods use the Dataset.")] = 0
    current_fuse_number_scheduled: Annotated[Int32, Doc("Number of nodes that have a daemon of the Dataset.")] = 0
    fuse_number_ready: Annotated[Int32, Doc("Number of nodes on which the Dataset's daemon serves.")] = 0
    fuse_number_available: Annotated[Int32, Doc("The same as the number that is ready.")] = 0
    fuse_number_unavailable: Annotated[Int32, Doc("Number of desired nodes on which no daemon serves.")] = 0
    conditions: Annotated[tuple[RuntimeCondition, ...], Doc("Present conditions.")] = ()
    cache_states: _CacheStates = CacheStates()
    workers: Annotated[tuple[WorkerCache, ...], Doc("What each worker holds.")] = ()
    selector: Annotated[str, Doc("The labels of the workers, for autoscalers.")] = ""
    value_file: Annotated[str, Doc("Stays empty: Fluid's Helm values.")] = ""
    setup_duration: Annotated[str, Doc("Stays empty.")] = ""
    api_gateway: Annotated[ApiGateway | None, Doc("Stays empty.")] = None
    mount_time: Annotated[Time, Doc("Stays empty.")] = ""
    mounts: Annotated[tuple[Mount, ...], Doc("Stays empty.")] = ()
    cache_affinity: Annotated[NodeAffinity | None, Doc("Stays empty.")] = None

    def written(self, *, is_ours: bool = True) -> dict[str, Any]:
        """The status as JSON, with all that Fluid's CRD requires; ``is_ours``: whether the installed CRD is ours."""
        written = _written(self, required=_RUNTIME_REQUIRES)
        return written if is_ours else _without_ours(written)


def _written(status: Model, *, required: tuple[str, ...]) -> dict[str, Any]:
    """What is not empty, and what is required."""
    full = status.model_dump(mode="json", by_alias=True, exclude_none=True)
    kept = {type(status).model_fields[name].alias for name in required}
    return {
        name: _filled(value) for name, value in full.items() if name in kept or _filled(value) not in ("", [], {}, 0)
    }


def _filled(value: Any) -> Any:  # noqa: ANN401
    """JSON without what is empty or false in it."""
    if isinstance(value, dict):
        within = {name: _filled(inner) for name, inner in value.items()}
        return {name: inner for name, inner in within.items() if inner not in ("", [], {}, False)}
    return [_filled(inner) for inner in value] if isinstance(value, list) else value


#: Fields that Fluid's CRDs do not have.
_OURS = ("observedGeneration", "workers")


def _without_ours(written: dict[str, Any]) -> dict[str, Any]:
    """A status without the fields that Fluid's CRDs do not have."""
    return {name: value for name, value in written.items() if name not in _OURS}
