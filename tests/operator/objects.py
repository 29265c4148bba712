"""Datasets and runtimes of tests, and what is waited for of them."""

from __future__ import annotations

from typing import Any

from tests.cluster.cluster import Manifest, Namespace
from tests.support.processes import TimeLimitError, wait_until

API_VERSION = "data.fluid.io/v1alpha1"


def dataset(name: str, mount_point: str, **spec: Any) -> Manifest:
    """A Dataset of one source."""
    return {
        "apiVersion": API_VERSION, "kind": "Dataset", "metadata": {"name": name},
        "spec": {"mounts": [{"mountPoint": mount_point}], "placement": "Shared", **spec},
    }  # fmt: skip


def runtime(name: str, *, replicas: int = 0, **spec: Any) -> Manifest:
    """An EFCRuntime with workers of 64 MiB."""
    levels = [{"mediumtype": "MEM", "path": "/dev/shm", "quota": "64Mi"}]
    return {
        "apiVersion": API_VERSION, "kind": "EFCRuntime", "metadata": {"name": name},
        "spec": {"replicas": replicas, "tieredstore": {"levels": levels}, **spec},
    }  # fmt: skip


def source_of(namespace: Namespace) -> str:
    """The directory of the test on the NAS, as a mountPoint."""
    whole, _, query = namespace.cluster.nas_url.partition("?")
    return f"{whole}/{namespace.name}?{query}"


def get(namespace: Namespace, kind: str, name: str) -> dict[str, Any]:
    """One object, which must be there."""
    found = namespace.cluster.get(kind, name, namespace=namespace.name)
    assert found is not None, f"there is no {kind} {name}"
    return found


def condition(found: Manifest, kind: str) -> dict[str, Any]:
    """The condition of a type; empty if it is not there."""
    for one in (found.get("status") or {}).get("conditions") or ():
        if one["type"] == kind:
            return dict(one)
    return {}


def await_phase(namespace: Namespace, name: str, phase: str, *, limit_s: float = 90) -> dict[str, Any]:
    """The Dataset, once it is in a phase."""
    return await_status(
        namespace, "dataset", name, lambda found: found["status"].get("phase") == phase, what=phase, limit_s=limit_s
    )


def await_said(
    namespace: Namespace, kind: str, name: str, type_: str, *words: str, status: str = "False", limit_s: float = 90
) -> dict[str, Any]:
    """The object, once a condition has this status and these words."""

    def says(found: dict[str, Any]) -> bool:
        one = condition(found, type_)
        return one.get("status") == status and all(word in one.get("message", "") for word in words)

    return await_status(namespace, kind, name, says, what=f"{type_} to be {status} and say {words}", limit_s=limit_s)


def await_status(
    namespace: Namespace, kind: str, name: str, is_so: Any, *, what: str, limit_s: float = 90
) -> dict[str, Any]:
    """The object, once something is so of it."""
    found: dict[str, Any] = {}

    def look() -> bool:
        nonlocal found
        found = get(namespace, kind, name)
        return "status" in found and bool(is_so(found))

    try:
        wait_until(look, what=f"{kind} {name}: {what}", limit_s=limit_s, interval_s=0.2)
    except TimeLimitError as error:
        raise AssertionError(f"{error}; its status is {found.get('status')}") from None
    return found
