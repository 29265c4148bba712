"""Datasets and EFCRuntimes that are wrong, with what is said of each, and others that are right."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

API_VERSION = "data.fluid.io/v1alpha1"
Object = dict[str, Any]


def dataset(*mounts: Mapping[str, Any] | str, **spec: Any) -> Object:
    """A Dataset with mounts, each given whole or as its mountPoint."""
    whole = [{"mountPoint": mount} if isinstance(mount, str) else mount for mount in mounts]
    return _object("Dataset", ({"mounts": whole} if mounts else {}) | spec)


def runtime(**spec: Any) -> Object:
    """An EFCRuntime."""
    return _object("EFCRuntime", spec)


def level(**fields: Any) -> Object:
    """An EFCRuntime with one level."""
    return runtime(tieredstore={"levels": [{"mediumtype": "MEM"} | fields]})


def _object(kind: str, spec: Mapping[str, Any]) -> Object:
    return {
        "apiVersion": API_VERSION,
        "kind": kind,
        "metadata": {"name": "tried", "namespace": "default"},
        "spec": spec,
    }


@dataclass(frozen=True)
class Wrong:
    """An object with a wrong value, the value's field, and words of the message."""

    case: str
    object: Object
    field: str
    words: str


_MOUNT_POINT = "spec.mounts[0].mountPoint"
_MOUNTS = "spec.mounts"
_SOURCES = "write nfs://HOST[:PORT]:/DIR, cpfs://HOST[:PORT]:/DIR or pvc://CLAIM[/DIR]"
_APART = "give each a path of its own"
_LEVEL = "spec.tieredstore.levels[0]"


def _at(mount_point: str, **fields: str) -> dict[str, str]:
    return {"mountPoint": mount_point} | fields


#: What `kubectl create` refuses under CRDs of ours. The fields and words are those of the operator under Fluid's, too.
WRONG = (
    Wrong("web", dataset("https://mirrors.example.com/spark/"), _MOUNT_POINT, _SOURCES),
    Wrong("bucket", dataset("s3://bucket/data"), _MOUNT_POINT, _SOURCES),
    Wrong("reference", dataset("dataset://team-a/demo"), _MOUNT_POINT, _SOURCES),
    Wrong("as-of-mount-8", dataset("nas:/data"), _MOUNT_POINT, _SOURCES),
    Wrong("local-directory", dataset("/data/here"), _MOUNT_POINT, _SOURCES),
    Wrong("capitals", dataset("NFS://nas/data"), _MOUNT_POINT, _SOURCES),
    Wrong("no-host", dataset("nfs:///data"), _MOUNT_POINT, "'nfs:///data' names no host: write nfs://HOST"),
    Wrong("no-host-of-cpfs", dataset("cpfs://:/share"), _MOUNT_POINT, "'cpfs://:/share' names no host"),
    Wrong("bare-ipv6", dataset("nfs://::1/data"), _MOUNT_POINT, "an IPv6 address in brackets"),
    Wrong("no-directory", dataset("nfs://nas"), _MOUNT_POINT, "'nfs://nas' names no absolute directory: write nfs://HOST"),
    Wrong("relative", dataset("nfs://nas:data/x"), _MOUNT_POINT, "names no absolute directory"),
    Wrong("upwards", dataset("nfs://nas/data/../secret"), _MOUNT_POINT, "contains '..': write the directory"),
    Wrong("upwards-at-the-end", dataset("nfs://nas/data/..?mountport=1"), _MOUNT_POINT, "contains '..'"),
    Wrong("upwards-with-backslashes", dataset("nfs://nas/a\\..\\b"), _MOUNT_POINT, "contains '..'"),
    Wrong("no-claim", dataset("pvc:///data"), _MOUNT_POINT, "'pvc:///data' names no claim: write pvc://CLAIM[/DIR]"),
    Wrong("claim-in-capitals", dataset("pvc://Data"), _MOUNT_POINT, "names no claim"),
    Wrong("path-upwards", dataset(_at("nfs://nas/a", path="/../a")), "spec.mounts[0].path", "'/../a' contains '..'"),
    Wrong("one-path", dataset(_at("nfs://nas/a", path="/a"), _at("nfs://nas/b", path="/a/")), _MOUNTS, _APART),
    Wrong("path-of-a-name", dataset(_at("nfs://nas/a", path="a"), _at("nfs://nas/b", name="a")), _MOUNTS, _APART),
    Wrong("inside", dataset(_at("nfs://nas/a", path="/a"), _at("nfs://nas/b", path="/a/b")), _MOUNTS, "at '/a/', or"),
    Wrong("in-the-root", dataset(_at("nfs://nas/a", path="/"), _at("nfs://nas/b", path="/b")), _MOUNTS, _APART),
    Wrong("nameless", dataset("nfs://nas/a", _at("nfs://nas/b", name="b")), _MOUNTS, "'nfs://nas/a' has neither"),
    Wrong("placement", dataset("nfs://nas/a", placement="Both"), "spec.placement", '"Exclusive", "Shared"'),
    Wrong("medium", level(mediumtype="NVME"), f"{_LEVEL}.mediumtype", '"MEM", "SSD", "HDD"'),
    Wrong("volume-type", level(volumeType="pvc"), f"{_LEVEL}.volumeType", '"hostPath", "emptyDir"'),
    Wrong(
        "network", runtime(fuse={"networkMode": "Host"}), "spec.fuse.networkMode", '"HostNetwork", "ContainerNetwork"'
    ),
    Wrong(
        "clean-policy", runtime(fuse={"cleanPolicy": "Never"}), "spec.fuse.cleanPolicy",
        "'Never' is unknown: write OnDemand or OnRuntimeDeleted",
    ),
    Wrong("small-quota", level(quota="63Mi"), f"{_LEVEL}.quota", "write 64Mi or more"),
    Wrong("small-quota-as-a-number", level(quota=1000), f"{_LEVEL}.quota", "write 64Mi or more"),
    Wrong("small-quota-in-decimals", level(quota="0.06Gi"), f"{_LEVEL}.quota", "write 64Mi or more"),
    Wrong("negative-quota", level(quota="-1Gi"), f"{_LEVEL}.quota", "write 64Mi or more"),
    Wrong("small-part", level(quotaList="1Gi,1Mi", path="/a,/b"), f"{_LEVEL}.quotaList", "write 64Mi or more for each"),
    Wrong("more-quotas", level(quotaList="1Gi,1Gi", path="/a"), f"{_LEVEL}.quotaList", "write one for each path"),
    Wrong("quotas-without-paths", level(quotaList="1Gi,1Gi"), f"{_LEVEL}.quotaList", "write one for each path"),
    Wrong("watermarks", level(high="0.5", low="0.7"), f"{_LEVEL}.high", "'0.5' is below low: write high above low"),
    Wrong("negative-replicas", runtime(replicas=-1), "spec.replicas", "write 0 for none, or more"),
    Wrong("no-master", runtime(master={"disabled": True}), "spec.master.disabled", "leave disabled out"),
)  # fmt: skip

_TERMS = [{"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]}]
#: What nobody refuses. The first are those of Fluid's documents.
RIGHT: Mapping[str, Object] = {
    "quick-start": dataset(_at("nfs://nas:/data", name="efc", path="/"), placement="Shared"),
    "quick-start-runtime": runtime(
        replicas=3,
        master={"networkMode": "ContainerNetwork"},
        worker={"networkMode": "ContainerNetwork"},
        fuse={"networkMode": "ContainerNetwork"},
        tieredstore={"levels": [{"mediumtype": "MEM", "path": "/dev/shm", "quota": "15Gi"}]},
    ),
    "mount-point-alone": dataset("nfs://file-01.cn-hangzhou.nas.example.com:/data"),
    "runtime-in-a-directory-of-the-pod": runtime(
        replicas=1,
        fuse={"properties": None},
        tieredstore={
            "levels": [
                {"mediumtype": "MEM", "volumeType": "emptyDir", "path": "/mnt/efc-worker-cache-path", "quota": "2Gi"}
            ]
        },
    ),
    "empty-runtime": runtime(),
    "no-spec": {"apiVersion": API_VERSION, "kind": "EFCRuntime", "metadata": {"name": "tried", "namespace": "default"}},
    "port": dataset("nfs://nas:2049:/data"),
    "port-without-a-colon": dataset("nfs://nas:2049/data"),
    "ipv6": dataset("nfs://[fd00::1]:2049:/data"),
    "whole-export": dataset("nfs://10.0.0.1/"),
    "mount-port": dataset("nfs://nas/data?mountport=20048"),
    "cpfs": dataset("cpfs://cpfs-01.cn-hangzhou.example.com:/share"),
    "claim": dataset("pvc://data"),
    "directory-of-a-claim": dataset("pvc://data.v2/a/b"),
    "numbers-of-an-owner": dataset("nfs://nas/a", owner={"uid": 1000, "gid": 1000}),
    "places": dataset(
        "nfs://nas/a",
        tolerations=[{"key": "gpu", "operator": "Exists"}],
        nodeAffinity={"required": {"nodeSelectorTerms": _TERMS}},
    ),
    "options-of-a-secret": dataset(
        {
            "mountPoint": "nfs://nas/a",
            "encryptOptions": [{"name": "port", "valueFrom": {"secretKeyRef": {"name": "nas", "key": "port"}}}],
        }
    ),
    "quota-as-a-number": level(quota=10**9),
    "quota-with-an-exponent": level(quota="1e9"),
    "smallest-quota": level(quota="64Mi"),
    "quotas": level(quotaList="1Gi,64Mi", path="/a,/b", mediumtype="SSD"),
    "watermarks": level(high="0.95", low="0.7"),
    "watermarks-that-are-no-numbers": level(high="most", low="0.7"),
    "resources": runtime(worker={"resources": {"requests": {"cpu": 1, "memory": "1Gi"}}}),
    "no-workers": runtime(replicas=0, worker={"disabled": True}),
    "three-mounts": dataset(
        _at("nfs://nas/a", path="/a"), _at("nfs://nas/b", path="/ab"), _at("nfs://nas/c", name="c", path="")
    ),
    "nested-path-of-one": dataset(_at("nfs://nas/a", path="/x/y")),
}
