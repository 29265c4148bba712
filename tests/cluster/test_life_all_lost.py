"""Everything that holds a node's sessions is killed at once: keeper, node plugin and daemons. Pods that run go on.

kubelet restarts the two containers; how long that takes is in the figure. No pod has HostToContainer.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.cluster.cluster import SYSTEM_NAMESPACE, Cluster, Namespace, pod
from tests.support.processes import wait_until

_NODE = "n1"
#: kubelet restarts a container at once, the first time. Two of them start here, on a machine that does much else.
_LIMIT_S = 20
#: Opens anew in every turn; one file stays open throughout. Times are of /proc/uptime, in units of 10 ms.
_LOOP = r"""
clock() { read -r now _ </proc/uptime; now=${now%.*}${now#*.}; }
turn=0 errors=0 last_error=0
echo held >/data/held
exec 3</data/held
while [ ! -e /tmp/stop ]; do
    turn=$((turn + 1)) file=/data/$HOSTNAME.$((turn % 20))
    if ! { echo $turn >$file && read -r back <$file && [ "$back" = $turn ]; } 2>/dev/null; then
        errors=$((errors + 1))
        clock
        last_error=$now
    fi
    echo '{"turn": '$turn', "errors": '$errors', "last_error": '$last_error'}' >/tmp/new && mv /tmp/new /tmp/state
    sleep 0.05
done
sleep 1 # who has made /tmp/stop is a process of this container, too, and would be killed with it
"""
#: Of all who hold sessions on the node, found before anybody is killed; prints when that was.
_KILL_ALL = r"""
holders=
for pid in $(pgrep -x efcd) $(pgrep -x efc-keeper) $(pgrep -f '[c]si node --endpoint'); do
    [ "$(readlink /proc/$pid/ns/net)" != "$(readlink /proc/self/ns/net)" ] || holders="$holders $pid"
done
read -r now _ </proc/uptime
kill -KILL $holders
echo $now $(echo $holders | wc -w)
"""


def _state(namespace: Namespace, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(namespace.run(name, "cat /tmp/state"))
    return found


def _kill_all(cluster: Cluster) -> int:
    """When, in hundredths of a second."""
    at, count = cluster.on_node(_NODE, "sh", "-c", _KILL_ALL).split()
    assert int(count) >= 3, "somebody was not found, so this proves nothing"
    return round(float(at) * 100)


def _status(cluster: Cluster) -> str:
    chosen = ("-n", SYSTEM_NAMESPACE, f"--field-selector=spec.nodeName={_NODE}")
    name = cluster.kubectl("get", "pods", *chosen, "-l", "app.kubernetes.io/component=node", "-o", "name").strip()
    return cluster.kubectl("-n", SYSTEM_NAMESPACE, "exec", name, "--", "efc", "status", check=False)


@pytest.mark.short
@pytest.mark.timeout(300)
def test_all_holders_die_at_once(namespace: Namespace, shared: str, figures: dict[str, object]) -> None:
    cluster = namespace.cluster
    folder = cluster.nas_folder / namespace.name
    (folder / "sub").mkdir(mode=0o777)
    (folder / "sub").chmod(0o777)
    command = ["sh", "-c", _LOOP]
    namespace.apply(
        pod("whole", claims={"/data": shared}, node=_NODE, command=command),
        pod("part", claims={"/data": shared}, node=_NODE, command=command, mount={"subPath": "sub"}),
        pod("reader", claims={"/data": shared}, node=_NODE, mount={"readOnly": True}),
    )
    namespace.await_pods("whole", "part", "reader")
    for name in ("whole", "part"):
        wait_until(lambda name=name: _state(namespace, name)["turn"] > 20, what=f"{name} to work", limit_s=60)  # type: ignore[misc]
    killed_at = _kill_all(cluster)

    def works(name: str, since: int) -> bool:
        """Nothing failed in its last turns."""
        state = _state(namespace, name)
        key = (name, state["last_error"])
        turns.setdefault(key, state["turn"])
        return bool(state["last_error"] > since and state["turn"] > turns[key] + 20)

    turns: dict[tuple[str, int], int] = {}
    for name in ("whole", "part"):
        wait_until(lambda name=name: works(name, killed_at), what=f"new opens in {name}", limit_s=90, interval_s=0.3)  # type: ignore[misc]
    after_s = {name: (_state(namespace, name)["last_error"] - killed_at) / 100 for name in ("whole", "part")}
    figures["keeper, node plugin and daemons killed at once"] = {"new_opens_work_after_s": after_s}
    print(after_s)

    assert namespace.run("reader", "cat /data/held") == "held"
    assert "Read-only" in namespace.fails("reader", "echo x >/data/refused")
    namespace.run("part", "echo content >/data/new")
    assert (folder / "sub" / "new").read_text() == "content\n"
    for name, root in (("whole", f"/{namespace.name}"), ("part", f"/{namespace.name}/sub")):
        mounts = namespace.run(name, "grep ' /data ' /proc/self/mountinfo").splitlines()
        assert len(mounts) == 1, mounts
        assert mounts[0].split()[3] == root
    wait_until(lambda: "mounted again" in _status(cluster), what="efc status to tell of it", limit_s=60, interval_s=1)
    status = _status(cluster)
    assert "open files that get errors" in status, status
    # They end as if nothing had been.
    for name in ("whole", "part"):
        namespace.run(name, "touch /tmp/stop")
    namespace.delete("pod", "whole", "part", "reader")
    wait_until(lambda: not cluster.published(_NODE), what="kubelet to clean up", limit_s=60, interval_s=0.5)
    assert max(after_s.values()) < _LIMIT_S, after_s
