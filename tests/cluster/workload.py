"""Verified I/O in a pod: a shell loop that notices every error and the longest pause, and what it says at its end.

Each turn writes a small file, reads it back and compares, and appends a line to a file that stays open throughout. The
clock is /proc/uptime, so pauses count in units of 10 ms.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tests.cluster.cluster import Namespace, pod
from tests.support.processes import wait_until

#: Longer than any pause that ends; how long pauses are is in results/cluster.json, and gates nothing.
HUNG_S = 60
_LOOP = r"""
clock() { read -r now _ </proc/uptime; now=${now%.*}${now#*.}; }
turn=0 errors=0 longest=0
exec 3>>/data/$HOSTNAME.log
clock; before=$now
while [ ! -e /tmp/stop ]; do
    turn=$((turn + 1)) file=/data/$HOSTNAME.$((turn % 20))
    if ! { echo $turn >$file && read -r back <$file && [ "$back" = $turn ] && echo $turn >&3; } then
        errors=$((errors + 1))
        echo "turn $turn failed" >&2
        sleep 0.1
    fi
    [ $((turn % 100)) != 0 ] || sync /data/$HOSTNAME.log || errors=$((errors + 1))
    clock
    [ $((now - before)) -le $longest ] || longest=$((now - before))
    before=$now
    echo $turn >/tmp/turn
done
printf '{"turns": %d, "errors": %d, "longest_pause_s": %d.%02d}' $turn $errors $((longest / 100)) $((longest % 100))
sleep 1 # who has made /tmp/stop is a process of this container, too, and would be killed with it
"""


@dataclass(kw_only=True)
class Report:
    """What a pod's loop counted; empty until it ended."""

    turns: int = 0
    errors: int = 0
    longest_pause_s: float = 0.0


@contextmanager
def verified_load(namespace: Namespace, *, claim: str, node: str, name: str = "load") -> Iterator[Report]:
    """Runs the loop in a pod during the block, and fills the report; the log must then hold every turn, in order."""
    with _load(namespace, name, claims={"/data": claim}, node=node) as report:
        yield report
    if not report.errors:
        written = (namespace.cluster.nas_folder / namespace.name / f"{name}.log").read_text().split()
        assert written == [str(turn) for turn in range(1, report.turns + 1)], f"{name}.log lost or repeats lines"


@contextmanager
def local_load(namespace: Namespace, *, node: str) -> Iterator[Report]:
    """The same loop on the node's own disk: how long it pauses there is the machine's doing."""
    with _load(namespace, "local", claims={}, node=node) as report:
        yield report


@contextmanager
def _load(namespace: Namespace, name: str, *, claims: Mapping[str, str], node: str) -> Iterator[Report]:
    namespace.apply(pod(name, claims=claims, node=node, command=["sh", "-c", f"mkdir -p /data\n{_LOOP}"]))
    namespace.await_pods(name)
    report = Report()
    _await_progress(namespace, name)
    yield report
    _await_progress(namespace, name)
    namespace.run(name, "touch /tmp/stop")
    namespace.cluster.await_phase(name, "Succeeded", namespace=namespace.name)
    text = namespace.cluster.kubectl("-n", namespace.name, "logs", name)
    result: dict[str, Any] = json.loads(text.splitlines()[-1])
    report.turns, report.errors = result["turns"], result["errors"]
    report.longest_pause_s = result["longest_pause_s"]


def _await_progress(namespace: Namespace, name: str) -> None:
    def turn() -> int:
        return int(namespace.run(name, "cat /tmp/turn 2>/dev/null || echo 0") or 0)

    first = turn()
    wait_until(lambda: turn() > first + 20, what=f"{name} to go on", limit_s=60, interval_s=0.3)
