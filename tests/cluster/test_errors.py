"""What is wrong stands in the events of the pod or claim, with the way to mend it; deleting works at once."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.cluster.cluster import Namespace, claim, pod
from tests.support.processes import wait_until

_DELETE_LIMIT_S = 15.0  # the pod never ran: nothing of it is worth waiting for


def _refused(namespace: Namespace, *parts: str, source: str, path: str = "", options: Sequence[str] = ()) -> None:
    """A pod with a static volume does not start, its events say `parts`, and it can be deleted."""
    namespace.static_volume("data", source=source, path=path, options=options)
    namespace.apply(pod("user", claims={"/data": "data"}))
    namespace.await_message("user", "FailedMount", *parts)
    assert namespace.delete("pod", "user") < _DELETE_LIMIT_S


def test_no_nas_at_the_address(namespace: Namespace) -> None:
    _refused(namespace, "10.77.0.200", source="nfs://10.77.0.200/data")


@pytest.mark.short
def test_no_such_export(namespace: Namespace) -> None:
    source = namespace.cluster.nas_url.replace("/export", "/nothing")
    _refused(namespace, "/nothing", "/export", source=source)


def test_no_such_directory(namespace: Namespace) -> None:
    _refused(namespace, "missing", source=namespace.cluster.nas_url, path="missing/directory")


def test_a_path_that_leads_out(namespace: Namespace) -> None:
    _refused(namespace, "..", source=namespace.cluster.nas_url, path="../elsewhere")


def test_an_unknown_mount_option(namespace: Namespace) -> None:
    _refused(
        namespace, "attr-tll", "did you mean 'attr-ttl'?", source=namespace.cluster.nas_url, options=["attr-tll=3s"]
    )


def test_an_unknown_parameter(namespace: Namespace) -> None:
    storage = namespace.storage_class("nas", source=namespace.cluster.nas_url, onDelet="archive")
    namespace.apply(claim("data", storage_class=storage))
    namespace.await_message("data", "ProvisioningFailed", "onDelet", "did you mean 'onDelete'?")
    assert namespace.delete("persistentvolumeclaim", "data") < _DELETE_LIMIT_S


def test_a_source_that_the_administrator_did_not_allow(namespace: Namespace) -> None:
    storage = namespace.storage_class("nas", source="nfs://10.77.0.200/elsewhere")
    namespace.apply(claim("data", storage_class=storage))
    namespace.await_message("data", "ProvisioningFailed", "nfs://10.77.0.200/elsewhere", "allowed is")
    assert namespace.delete("persistentvolumeclaim", "data") < _DELETE_LIMIT_S


def test_a_full_nas(namespace: Namespace) -> None:
    """The pod gets ENOSPC, a claim's event says that the NAS is full, and deleting works at once, and mends it."""
    cluster = namespace.cluster
    storage = namespace.storage_class("small", source=cluster.small_url)
    namespace.apply(claim("first", storage_class=storage), pod("writer", claims={"/data": "first"}))
    namespace.await_pods("writer")
    filler = "cd /data; dd if=/dev/zero of=big bs=64k; for n in $(seq 20000); do : >small-$n || exit 1; done"
    assert "No space left on device" in namespace.fails("writer", filler)
    namespace.apply(claim("second", storage_class=storage))
    namespace.await_message("second", "ProvisioningFailed", "small", "full", "enlarge")
    assert namespace.delete("persistentvolumeclaim", "second") < _DELETE_LIMIT_S
    assert namespace.delete("pod", "writer") < _DELETE_LIMIT_S
    assert namespace.delete("persistentvolumeclaim", "first") < _DELETE_LIMIT_S

    def volumes_left() -> list[str]:
        mine = [
            volume for volume in cluster.objects("persistentvolumes") if volume["spec"]["storageClassName"] == storage
        ]
        return [volume["metadata"]["name"] for volume in mine]

    wait_until(lambda: not volumes_left(), what="the volume to be deleted on a full NAS", limit_s=60, interval_s=0.5)
    namespace.apply(claim("third", storage_class=storage))
    namespace.bound_directory("third")
