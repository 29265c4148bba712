"""What `kubectl efc` says of objects: of a Dataset and its runtime, of workers' pods, and of users' pods."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from csi.operator import views
from csi.operator.names import ROLE_LABEL, UID_LABEL

NOW = datetime(2026, 11, 29, 12, 0, tzinfo=UTC)
MADE = "2026-11-29T11:00:00Z"


def metadata(name: str, **more: Any) -> dict[str, Any]:
    return {"namespace": "shop", "name": name, "uid": f"uid-{name}", "creationTimestamp": MADE, **more}


def condition(kind: str, status: str, message: str = "") -> dict[str, str]:
    return {"type": kind, "status": status, "reason": "R", "message": message, "lastTransitionTime": MADE}


def dataset(*, phase: str = "Bound", conditions: list[dict[str, str]] | None = None, **more: Any) -> dict[str, Any]:
    return {
        "metadata": metadata("data", **more),
        "spec": {"mounts": [{"mountPoint": "nfs://nas/a"}]},
        "status": {
            "phase": phase, "ufsTotal": "10.00GiB", "fileNum": "3",
            "conditions": [condition("Ready", "True")] if conditions is None else conditions,
            "cacheStates": {
                "cached": "5.00GiB", "cacheCapacity": "20.00GiB", "cachedPercentage": "50.0%", "cacheHitRatio": "9.0%",
            },
        },
    }  # fmt: skip


def runtime(**status: Any) -> dict[str, Any]:
    levels = [{"mediumtype": "MEM", "path": "/dev/shm", "quota": "10Gi"}]
    return {
        "metadata": metadata("data"),
        "spec": {"replicas": 2, "tieredstore": {"levels": levels}},
        "status": {"workerNumberReady": 1, "desiredWorkerNumberScheduled": 2, **status},
    }


def test_a_dataset_that_does_well() -> None:
    view = views.status(dataset(), runtime(), now=NOW)
    assert view["notes"] == []
    assert (view["phase"], view["ready"], view["size"], view["files"]) == ("Bound", True, "10.00GiB", "3")
    assert (view["used_percentage"], view["hit_ratio"], view["local_hit_ratio"]) == ("25.0%", "9.0%", None)
    assert view["workers"] == {"ready": 1, "desired": 2}
    assert (view["age_seconds"], view["sources"]) == (3600, ["nfs://nas/a"])


def test_notes_say_the_worst_first_and_nothing_twice() -> None:
    ignored = condition("FieldsIgnored", "True", "these fields have no effect: spec.runtimes")
    found = dataset(phase="Failed", conditions=[ignored, condition("Ready", "False", "the NAS does not answer")])
    ran = runtime(conditions=[ignored, condition("WorkersReady", "False", "0/3 nodes are available")])
    assert views.status(found, ran, now=NOW)["notes"] == [
        "the NAS does not answer", "0/3 nodes are available", "these fields have no effect: spec.runtimes",
    ]  # fmt: skip


def test_what_keeps_a_deleted_one_is_named() -> None:
    found = dataset(deletionTimestamp=MADE, finalizers=["fluid-dataset-controller-finalizer"])
    view = views.status(found, None, now=NOW)
    assert view["deleting"]
    assert view["workers"] is None
    assert "fluid-dataset-controller-finalizer" in view["notes"][0]


def test_that_nobody_looks_is_said() -> None:
    found = {"metadata": metadata("data"), "spec": {}}
    (note,) = views.status(found, None, now=NOW)["notes"]
    assert note.startswith("nobody has looked at it")


def worker(
    number: int, *, ready: bool = True, uid: str = "uid-data", role: str = "efc-worker", **more: Any
) -> dict[str, Any]:
    return {
        "metadata": metadata(f"data-worker-{number}", labels={UID_LABEL: uid, ROLE_LABEL: role}),
        "spec": {"nodeName": f"n{number}"},
        "status": {"conditions": [condition("Ready", str(ready))]} | more,
    }


def test_workers_are_the_datasets_own_in_order_with_what_each_holds() -> None:
    waiting = {"state": {"waiting": {"reason": "ErrImagePull", "message": "no such image"}}}
    pods = [
        worker(10), worker(9, ready=False, containerStatuses=[waiting]), worker(1, uid="other"),
        worker(2, role="efc-master"),
    ]  # fmt: skip
    ran = runtime(workers=[{"name": "data-worker-10", "cached": "1.00GiB"}, {"name": "data-worker-77", "cached": "2"}])
    found = views.workers(dataset(), ran, pods)
    assert [(one["worker"], one["node"], one["ready"], one["cached"], one["note"]) for one in found] == [
        ("data-worker-9", "n9", False, None, "ErrImagePull: no such image"),
        ("data-worker-10", "n10", True, "1.00GiB", None),
    ]
    assert {one["capacity"] for one in found} == {"10.00GiB"}


def test_a_worker_that_has_no_node_says_the_schedulers_words() -> None:
    pod = worker(0, ready=False)
    del pod["spec"]["nodeName"]
    pod["status"]["conditions"] = [condition("PodScheduled", "False", "0/3 nodes are available: 3 Insufficient memory")]
    (found,) = views.workers(dataset(), runtime(), [pod])
    assert found["node"] is None
    assert found["note"] == "0/3 nodes are available: 3 Insufficient memory"


def user(name: str, *volumes: dict[str, Any], phase: str = "Running", **more: Any) -> dict[str, Any]:
    mounts = [{"name": volume["name"], "mountPath": f"/{volume['name']}"} for volume in volumes]
    return {
        "metadata": metadata(name, **more),
        "spec": {"nodeName": "n1", "volumes": list(volumes), "containers": [{"name": "main", "volumeMounts": mounts}]},
        "status": {"phase": phase, "conditions": [condition("Ready", "True")]},
    }


DATA = {"name": "disk", "persistentVolumeClaim": {"claimName": "data"}}
OTHER = {"name": "other", "persistentVolumeClaim": {"claimName": "other"}}


def test_users_are_pods_that_name_the_claim_and_have_not_ended() -> None:
    pods = [
        user("web", OTHER, DATA), user("done", DATA, phase="Succeeded"), user("bad", DATA, phase="Failed"),
        user("idle", OTHER), user("ending", DATA, deletionTimestamp=MADE), user("none"),
    ]  # fmt: skip
    found = views.mounts("data", pods, now=NOW)
    assert [(one["pod"], one["phase"], one["paths"]) for one in found] == [
        ("ending", "Terminating", ["/disk"]), ("web", "Running", ["/disk"]),
    ]  # fmt: skip
    assert [one["pod"] for one in views.mounts("web-scratch", [user("web", {"name": "scratch", "ephemeral": {}})],
                                               now=NOW)] == ["web"]  # fmt: skip


@pytest.mark.parametrize(
    ("by", "order"),
    [("cached", "bac"), ("size", "abc"), ("used", "bac"), ("hits", "bac")],
)
def test_the_most_is_first_and_what_is_not_known_last(by: str, order: str) -> None:
    found = [
        {"namespace": "x", "name": name, "size": size, "cached": cached, "used_percentage": used, "hit_ratio": hits}
        for name, size, cached, used, hits in (
            ("c", None, None, None, None),
            ("a", "1.00TiB", "900.00MiB", "1.0%", "0.0%"),
            ("b", "2.00GiB", "1.00GiB", "50.0%", "99.9%"),
        )
    ]
    assert "".join(view["name"] for view in views.order(found, by)) == order
