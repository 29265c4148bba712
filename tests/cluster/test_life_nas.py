"""The NAS goes away for a minute while pods work: they wait, see no error, and what is wrong can be read meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest

from tests.cluster.cluster import Namespace, pod
from tests.cluster.machines import NasServer, mounts_of
from tests.cluster.workload import verified_load
from tests.support.processes import wait_until

_NODE = "n1"
_AWAY_S = 60.0
#: From the moment when the NAS answers again. Its connections are tried again every second or so.
_RESUME_S_MAX = 60.0


def _says_so(namespace: Namespace) -> str:
    """The reason that `efc status` gives in the keeper's pod."""
    cluster = namespace.cluster
    found: list[str] = []

    def said() -> bool:
        found[:] = [
            str(mount["reason"]) for mount in mounts_of(cluster, _NODE) if mount["state"] == "unresponsive_nas"
        ]  # fmt: skip
        return bool(found)

    wait_until(said, what="efc status to call the NAS unresponsive", limit_s=30, interval_s=1)
    return found[0]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("how", ["frozen", "crashed"])
def test_the_nas_is_gone_for_a_minute(namespace: Namespace, shared: str, figures: dict[str, object], how: str) -> None:
    """A running pod and one that is started meanwhile; one that is given up meanwhile can be deleted."""
    cluster = namespace.cluster
    nas = NasServer(cluster=cluster)
    away: Callable[[], AbstractContextManager[None]] = getattr(nas, how)
    with verified_load(namespace, claim=shared, node=_NODE) as report:
        began = time.monotonic()
        with away():
            reason = _says_so(namespace)
            assert "has not answered" in reason
            namespace.apply(
                pod("late", claims={"/data": shared}, node=_NODE), pod("given-up", claims={"/data": shared}, node=_NODE)
            )  # fmt: skip
            abnormal = namespace.await_abnormal("load", "NAS does not answer", limit_s=90)
            deleted_s = namespace.delete("pod", "given-up")
            time.sleep(max(0.0, _AWAY_S - (time.monotonic() - began)))
            away_s = time.monotonic() - began
        namespace.await_pods("late")
        late_s = time.monotonic() - began - away_s
        assert namespace.run("late", "cat /data/load.0 >/dev/null && echo read") == "read"
    figures[f"NAS {how}"] = {
        **vars(report), "away_s": round(away_s, 1), "new_pod_ready_after_s": round(late_s, 1),
        "pod_deleted_meanwhile_s": round(deleted_s, 1), "status": reason, "condition": abnormal,
    }  # fmt: skip
    assert report.errors == 0, report
    assert report.longest_pause_s < away_s + _RESUME_S_MAX, report
