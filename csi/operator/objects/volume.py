"""A Dataset's PersistentVolume and PersistentVolumeClaim, and the Service that the volume names.

The API server makes nearly all fields of a volume and a claim immutable. So existing ones stay as they are, whatever
the Dataset says now; :func:`differences` tells what would need a new volume. Options that can change while mounted
reach nodes through the master, and so do added and removed sources: those in force are in an annotation of the volume.
"""

from collections.abc import Mapping
from typing import Any

from csi.api.dataset import Dataset
from csi.api.efcruntime import CleanPolicy, EFCRuntime
from csi.api.sources import SIZE_ANNOTATION, SIZE_DEFAULT, access_modes
from csi.base.addresses import joined_address
from csi.base.errors import invalid
from csi.config.options import OPTIONS, Change
from csi.config.several import Sources, origin_of
from csi.operator.names import LEADER_LABEL, MASTER_PORT, MASTER_ROLE, STORAGE_CLASS, Names
from csi.operator.objects.levels import MIB
from csi.operator.objects.options import mount_options
from csi.operator.objects.pods import port_of
from csi.operator.objects.settings import Known, Object, Settings
from csi.operator.objects.sizes import size_of

#: Attributes of the volume beside options.
SOURCE, SOURCES, PATH = "source", "sources", "path"
DATASET, MASTER, CLEAN_POLICY, MEMORY_MAX = "dataset", "master", "clean-policy", "fuse-memory-max"
#: Of several sources: nodes follow the master's word which they are by now.
LIVE_SOURCES = "live-sources"
#: Of a volume: the sources that nodes are told now, in canonical form; those of its attributes are the first ones.
SOURCES_ANNOTATION = "efc.data.fluid.io/sources"
#: What a daemon needs at least (efc-keeper --daemon-memory-max).
_DAEMON_MIB_MIN = 64
#: Attributes that nodes are told anew through the master, and where the data is, which is compared as a whole.
_TOLD = frozenset({CLEAN_POLICY, MEMORY_MAX, SOURCE, SOURCES, PATH, LIVE_SOURCES})
#: What users call sources that cannot come and go under pods.
_LISTED = "spec.mounts (with dataset.allowedSources)"
#: What users call attributes that are no options.
_FIELDS = {
    MASTER: "the address of the master's Service",
}


def service(dataset: Dataset, runtime: EFCRuntime, known: Known) -> dict[str, Any]:
    """The master's Service: the pod that leads. A new one asks for the address that the volume has, if it can be had.

    With another address it gets another volume (:func:`differences`).
    """
    names = Names.of(dataset.metadata)
    spec: dict[str, Any] = {
        "type": "ClusterIP",
        "selector": {**names.selector(MASTER_ROLE), LEADER_LABEL: "true"},
        "ports": [
            {
                "name": "grpc",
                "port": MASTER_PORT,
                "targetPort": port_of(runtime.spec.master, MASTER_ROLE, names),
                "protocol": "TCP",
            }
        ],
    }
    if known.volume is not None and known.service is None and not known.is_address_lost:
        endpoint = _attributes(known.volume).get(MASTER, "")
        if address := endpoint.rpartition(":")[0].strip("[]"):
            spec["clusterIP"] = address
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": names.master, "labels": names.labels()},
        "spec": spec,
    }


def volume(dataset: Dataset, runtime: EFCRuntime, settings: Settings, known: Known) -> dict[str, Any] | None:
    """The PersistentVolume; None while the Service has no address yet."""
    if known.volume is None:
        return _new_volume(dataset, runtime, settings, known)
    spec = known.volume["spec"]
    fixed = _kept(spec, ("accessModes", "nodeAffinity"))
    fixed["capacity"] = {"storage": _as_written(spec["capacity"]["storage"], dataset)}
    fixed["csi"] = _kept(spec["csi"], _CSI_FIXED)
    source = place_in_force(known.volume)[0] if _fixed_places(known.volume, known) else known.source
    return _volume(Names.of(dataset.metadata), fixed, source=source)


def place_in_force(volume: Object) -> tuple[str, str]:
    """The canonical form of the source or the sources that nodes are told by now, and the path beneath a single one."""
    attributes = _attributes(volume)
    annotations = volume["metadata"].get("annotations") or {}
    source = annotations.get(SOURCES_ANNOTATION) or attributes.get(SOURCES) or attributes.get(SOURCE) or ""
    return str(source), str(attributes.get(PATH, ""))


def claim(dataset: Dataset, known: Known) -> dict[str, Any]:
    """The PersistentVolumeClaim."""
    names = Names.of(dataset.metadata)
    spec: dict[str, Any] = {
        "accessModes": list(access_modes(dataset)),
        "resources": {"requests": {"storage": capacity(dataset)}},
        "storageClassName": STORAGE_CLASS,
        "volumeMode": "Filesystem",
        "volumeName": names.volume,
    }
    if known.claim is not None:
        present = known.claim["spec"]
        size = _as_written(present["resources"]["requests"]["storage"], dataset)
        spec = _kept(present, tuple(spec)) | {"resources": {"requests": {"storage": size}}}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": names.claim, "labels": names.volume_labels()},
        "spec": spec,
    }


def capacity(dataset: Dataset) -> str:
    """Size of claim and volume, as the Dataset's annotation says; raises INVALID_ARGUMENT."""
    text, where = (
        dataset.metadata.annotations.get(SIZE_ANNOTATION, SIZE_DEFAULT),
        f"metadata.annotations[{SIZE_ANNOTATION}]",
    )
    if size_of(text, field=where) == 0:
        raise invalid(f"{where} is {text!r}: the size of a volume is more than 0")
    return text


def differences(dataset: Dataset, runtime: EFCRuntime, settings: Settings, known: Known) -> tuple[str, ...]:
    """What the volume that is there has otherwise than one made now would, and nodes cannot be told; for people."""
    made = _new_volume(dataset, runtime, settings, known)
    if known.volume is None or made is None:
        return ()
    present, wanted = known.volume["spec"], made["spec"]
    before, after = _attributes(known.volume), wanted["csi"]["volumeAttributes"]
    fields = [
        ("spec.accessModes", present.get("accessModes"), wanted["accessModes"]),
        ("spec.fuse.nodeSelector", present.get("nodeAffinity"), wanted.get("nodeAffinity")),
        *(
            (_FIELDS.get(name, f"option {name}"), before.get(name), after.get(name))
            for name in sorted({*before, *after})
            if name not in _TOLD and not _is_live(name)
        ),
        *((name, False, True) for name in _fixed_places(known.volume, known)),
    ]
    if not _same_size(present["capacity"]["storage"], wanted["capacity"]["storage"]):
        fields.append((f"annotation {SIZE_ANNOTATION}", present, wanted))
    return tuple(dict.fromkeys(name for name, there, now in fields if there != now))


_CSI_FIXED = ("driver", "volumeHandle", "volumeAttributes", "nodePublishSecretRef")


def _new_volume(dataset: Dataset, runtime: EFCRuntime, settings: Settings, known: Known) -> dict[str, Any] | None:
    names, address = Names.of(dataset.metadata), _service_address(known)
    if not address:
        return None
    spec: dict[str, Any] = {
        "capacity": {"storage": capacity(dataset)},
        "accessModes": list(access_modes(dataset)),
        "csi": {
            "driver": settings.driver,
            "volumeHandle": names.volume_handle,
            "volumeAttributes": {
                **mount_options(dataset, runtime, settings),
                SOURCES if _is_several(known.source) else SOURCE: known.source,
                **({PATH: known.path} if known.path else {}),
                **({LIVE_SOURCES: "true"} if _is_several(known.source) and not known.are_listed else {}),
                DATASET: names.dataset,
                MASTER: joined_address(address, MASTER_PORT),
                CLEAN_POLICY: clean_policy(runtime),
                **({MEMORY_MAX: str(limit)} if (limit := memory_max(runtime)) else {}),
            },
            "nodePublishSecretRef": {"name": names.node_secret, "namespace": names.namespace},
        },
    }
    if selector := runtime.spec.fuse.node_selector:
        expressions = [{"key": key, "operator": "In", "values": [value]} for key, value in sorted(selector.items())]
        spec["nodeAffinity"] = {"required": {"nodeSelectorTerms": [{"matchExpressions": expressions}]}}
    return _volume(names, spec, source=known.source)


def _volume(names: Names, fixed: Mapping[str, Any], *, source: str) -> dict[str, Any]:
    metadata: dict[str, Any] = {"name": names.volume, "labels": names.volume_labels()}
    if _is_several(source):
        metadata["annotations"] = {SOURCES_ANNOTATION: source}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": metadata,
        "spec": {
            **fixed,
            "persistentVolumeReclaimPolicy": "Retain",
            "storageClassName": STORAGE_CLASS,
            "volumeMode": "Filesystem",
            "claimRef": {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "namespace": names.namespace,
                "name": names.claim,
            },
        },
    }


def _is_several(source: str) -> bool:
    return source.startswith("[")


def _fixed_places(volume: Object, known: Known) -> tuple[str, ...]:
    """What of a Dataset's mounts is another by now and cannot change under pods; empty: all that has changed can."""
    before, is_live = place_in_force(volume), LIVE_SOURCES in _attributes(volume)
    if before == (known.source, known.path):
        return (_LISTED,) if is_live and known.are_listed else ()
    former, wanted = origin_of(before[0]), origin_of(known.source)
    if isinstance(former, Sources) and isinstance(wanted, Sources):
        sources = {one.path: one.source for one in former.mounted}
        changed = (one.path for one in wanted.mounted if sources.get(one.path, one.source) != one.source)
        listed = () if is_live and not known.are_listed else (_LISTED,)
        return (*(f"spec.mounts: the mountPoint at {path}" for path in changed), *listed)
    if isinstance(former, Sources):
        path = former.mounted[0].path
        return (f"spec.mounts: whether the mounts appear below the root (path: {path} keeps a single one where it is)",)
    if isinstance(wanted, Sources):
        return ("spec.mounts: whether the only mount appears at the root",)
    return ("spec.mounts[0].mountPoint",)


def clean_policy(runtime: EFCRuntime) -> str:
    """When a node's daemon ends: with its last pod, or with the runtime."""
    on_demand = runtime.spec.fuse.clean_policy == CleanPolicy.ON_DEMAND
    return str(CleanPolicy.ON_DEMAND if on_demand else CleanPolicy.ON_RUNTIME_DELETED)


def memory_max(runtime: EFCRuntime) -> int:
    """Most bytes that a daemon may use, 0 without a limit; raises INVALID_ARGUMENT for one that is too low.

    One that is higher than any option can say is that of the option: no daemon comes near it.
    """
    limit = (runtime.spec.fuse.resources.get("limits") or {}).get("memory")
    if limit is None:
        return 0
    where = "spec.fuse.resources.limits.memory"
    size = size_of(limit, field=where)
    if size < _DAEMON_MIB_MIN * MIB:
        raise invalid(f"{where} is {limit}: a daemon needs {_DAEMON_MIB_MIN}Mi or more")
    return min(size, OPTIONS["memory-max"].maximum * MIB)


def _service_address(known: Known) -> str:
    address = str(((known.service or {}).get("spec") or {}).get("clusterIP") or "")
    return "" if address == "None" else address


def _attributes(present: Object) -> Mapping[str, str]:
    return (present["spec"].get("csi") or {}).get("volumeAttributes") or {}


def _as_written(present: str, dataset: Dataset) -> str:
    """The size that is there, in the Dataset's words if it is the same: the API server writes 100Pi for 102400Ti."""
    wanted = capacity(dataset)
    return wanted if _same_size(present, wanted) else present


def _same_size(one: str, other: str) -> bool:
    return size_of(one, field="a size") == size_of(other, field="a size")


def _kept(spec: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: spec[name] for name in names if name in spec}


def _is_live(name: str) -> bool:
    return name in OPTIONS and OPTIONS[name].change is not Change.NEW_MOUNT
