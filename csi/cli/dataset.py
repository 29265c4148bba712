"""``efc dataset``, which is ``kubectl efc``: how Datasets of a cluster do, and what a removed Fluid left on them."""

import argparse
import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from csi.base.errors import Code, DriverError
from csi.base.text import printable
from csi.cli import kubernetes
from csi.cli.tables import print_table

_STATUS_COLUMNS = (
    "NAME", "PHASE", "UFS TOTAL SIZE", "CACHED", "CACHE CAPACITY", "CACHED PERCENTAGE", "CACHE HIT RATIO", "WORKERS",
    "FUSES", "AGE", "NOTE",
)  # fmt: skip
_TOP_COLUMNS = (
    "NAME",
    "SIZE",
    "CACHED",
    "CACHED%",
    "CAPACITY",
    "USED%",
    "HITS%",
    "LOCAL%",
    "WORKERS%",
    "PODS",
    "NODES",
)
_WORKER_COLUMNS = ("WORKER", "NODE", "READY", "CACHED", "CAPACITY", "NOTE")
_POD_COLUMNS = ("POD", "NODE", "PHASE", "READY", "PATHS", "AGE")
_CONDITION_COLUMNS = ("OF", "CONDITION", "STATUS", "REASON", "SINCE", "MESSAGE")
_FLUID = "/apis/data.fluid.io/v1alpha1"
_UNITS = ((86_400, "d"), (3600, "h"), (60, "m"), (1, "s"))

View = dict[str, Any]
Json = Mapping[str, Any]


def run(parsed: argparse.Namespace) -> int:
    """Runs one of the subcommands."""

    async def work() -> int:
        async with kubernetes.connected(parsed) as (cluster, namespace):
            return await _WORK[parsed.work](parsed, cluster, namespace)

    return asyncio.run(work())


# ------------------------------------------------------------ the subcommands


async def _status(parsed: argparse.Namespace, cluster: Any, namespace: str) -> int:  # noqa: ANN401
    if parsed.name and parsed.all_namespaces:
        raise DriverError(Code.INVALID_ARGUMENT, "NAME belongs to one namespace: leave --all-namespaces out")
    views = await _views(cluster, namespace, name=parsed.name, is_everywhere=parsed.all_namespaces)
    if parsed.json:
        print(json.dumps(views, indent=2))
    elif parsed.name:
        _print_whole(views[0])
    elif not views:
        _print_none(namespace, is_everywhere=parsed.all_namespaces)
    else:
        _print_views(_STATUS_COLUMNS, views, _status_row, is_everywhere=parsed.all_namespaces)
    return 0


async def _top(parsed: argparse.Namespace, cluster: Any, namespace: str) -> int:  # noqa: ANN401
    from csi.operator import views as making

    views = making.order(await _views(cluster, namespace, is_everywhere=parsed.all_namespaces), parsed.sort)
    pods = (await cluster.list(_core("pods", "" if parsed.all_namespaces else namespace))).items
    by_namespace: dict[str, list[Json]] = {}
    for pod in pods:
        by_namespace.setdefault(pod["metadata"]["namespace"], []).append(pod)
    now = datetime.now(UTC)
    for view in views:
        users = making.mounts(view["name"], by_namespace.get(view["namespace"], []), now=now)
        view |= {"pods": len(users), "nodes": len({user["node"] for user in users if user["node"]})}
    if parsed.json:
        print(json.dumps(views, indent=2))
    elif not views:
        _print_none(namespace, is_everywhere=parsed.all_namespaces)
    else:
        _print_views(_TOP_COLUMNS, views, _top_row, is_everywhere=parsed.all_namespaces)
    return 0


async def _where(parsed: argparse.Namespace, cluster: Any, namespace: str) -> int:  # noqa: ANN401
    from csi.operator import views as making
    from csi.operator.names import UID_LABEL

    dataset, runtime = await _pair(cluster, namespace, parsed.name)
    if runtime is None:
        raise DriverError(
            Code.FAILED_PRECONDITION,
            f"Dataset {parsed.name!r} has no EFCRuntime of its name in namespace {namespace!r}, and so no workers",
        )
    uid = dataset["metadata"]["uid"]
    pods = (await cluster.list(_core("pods", namespace), labels=f"{UID_LABEL}={uid}")).items
    workers = making.workers(dataset, runtime, pods)
    if parsed.json:
        print(json.dumps(workers, indent=2))
        return 0
    if not workers:
        wanted = 0 if (runtime["spec"].get("worker") or {}).get("disabled") else runtime["spec"].get("replicas") or 0
        print(
            f"None of {wanted} workers exists: kubectl efc status {printable(parsed.name)} shows why."
            if wanted
            else "Its EFCRuntime asks for no workers: only nodes that use it hold parts of it, in their memory."
        )
        return 0
    rows = [
        (
            worker["worker"], worker["node"] or "-", _yes(worker["ready"]), worker["cached"] or "-",
            worker["capacity"] or "-", worker["note"] or "",
        )
        for worker in workers
    ]  # fmt: skip
    print_table(_WORKER_COLUMNS, rows)
    if not any(worker["cached"] for worker in workers):
        print(
            "\nHow much each of them holds is not known yet; metric efc_dataset_worker_cached_bytes shows it as well."
        )
    return 0


async def _mounts(parsed: argparse.Namespace, cluster: Any, namespace: str) -> int:  # noqa: ANN401
    from csi.operator import views as making

    await _pair(cluster, namespace, parsed.name)
    pods = (await cluster.list(_core("pods", namespace))).items
    users = making.mounts(parsed.name, pods, now=datetime.now(UTC))
    if parsed.json:
        print(json.dumps(users, indent=2))
    elif not users:
        print(f"No pod of namespace {printable(namespace)} names the claim {printable(parsed.name)}.")
    else:
        print_table(
            _POD_COLUMNS,
            [
                (
                    user["pod"], user["node"] or "-", user["phase"], _yes(user["ready"]), " ".join(user["paths"]),
                    _duration(user["age_seconds"]),
                )
                for user in users
            ],
        )  # fmt: skip
    return 0


async def _adopt(parsed: argparse.Namespace, cluster: Any, namespace: str) -> int:  # noqa: ANN401
    from csi.operator import adoption

    status, done = 0, []
    for name in dict.fromkeys(parsed.names):
        try:
            done += await adoption.adopt(cluster, namespace=namespace, name=name)
        except DriverError as error:
            if error.code is not Code.NOT_FOUND or len(parsed.names) == 1:
                raise
            # The others are adopted all the same.
            status = 1
            print(f"efc: {printable(error.message)}", file=sys.stderr)
    if parsed.json:
        found = [
            {
                "kind": one.kind, "namespace": one.namespace, "name": one.name, "finalizer": one.finalizer or None,
                "deleting": one.is_deleting,
            }
            for one in done
        ]  # fmt: skip
        print(json.dumps(found, indent=2))
        return status
    for one in done:
        what = f"took {one.finalizer} off" if one.finalizer else "has no finalizer of Fluid's"
        more = "; its deletion goes on" if one.is_deleting and one.finalizer else ""
        print(f"{one.kind} {printable(one.namespace)}/{printable(one.name)}: {what}{more}")
    return status


_WORK: Mapping[str, Callable[[argparse.Namespace, Any, str], Awaitable[int]]] = {
    "status": _status, "top": _top, "where": _where, "mounts": _mounts, "adopt": _adopt,
}  # fmt: skip


# ------------------------------------------------------------ reading


async def _views(
    cluster: Any,  # noqa: ANN401
    namespace: str,
    *,
    name: str | None = None,
    is_everywhere: bool = False,
) -> list[View]:
    from csi.operator import views as making

    now = datetime.now(UTC)
    if name:
        dataset, runtime = await _pair(cluster, namespace, name)
        return [making.status(dataset, runtime, now=now)]
    place = "" if is_everywhere else namespace
    datasets = await _all(cluster, "datasets", place)
    runtimes = {_key(found): found for found in await _all(cluster, "efcruntimes", place)}
    return [making.status(found, runtimes.get(_key(found)), now=now) for found in sorted(datasets, key=_key)]


async def _pair(cluster: Any, namespace: str, name: str) -> tuple[Json, Json | None]:  # noqa: ANN401
    dataset, runtime = [
        await cluster.get(f"{_FLUID}/namespaces/{namespace}/{plural}/{name}") for plural in ("datasets", "efcruntimes")
    ]
    if dataset is None:
        await _all(cluster, "datasets", namespace)  # says so if there is no such kind
        more = ", but an EFCRuntime" if runtime is not None else ""
        raise DriverError(Code.NOT_FOUND, f"there is no Dataset {name!r} in namespace {namespace!r}{more}")
    return dataset, runtime


async def _all(cluster: Any, plural: str, namespace: str) -> Sequence[Json]:  # noqa: ANN401
    path = f"{_FLUID}/namespaces/{namespace}/{plural}" if namespace else f"{_FLUID}/{plural}"
    try:
        items: Sequence[Json] = (await cluster.list(path)).items
    except DriverError as error:
        if error.code is not Code.NOT_FOUND:
            raise
        raise DriverError(
            Code.FAILED_PRECONDITION,
            "this cluster has no Datasets, their CRDs are missing: kubectl apply --server-side -f deploy/crds.yaml",
        ) from None
    return items


def _core(plural: str, namespace: str) -> str:
    return f"/api/v1/namespaces/{namespace}/{plural}" if namespace else f"/api/v1/{plural}"


def _key(found: Json) -> tuple[str, str]:
    return found["metadata"]["namespace"], found["metadata"]["name"]


# ------------------------------------------------------------ printing


def _print_none(namespace: str, *, is_everywhere: bool) -> None:
    print("There are no Datasets." if is_everywhere else f"There are no Datasets in namespace {printable(namespace)}.")


def _print_views(
    columns: Sequence[str], views: Iterable[View], row: Callable[[View], tuple[str, ...]], *, is_everywhere: bool
) -> None:
    rows = [((view["namespace"],) if is_everywhere else ()) + row(view) for view in views]
    print_table((*(("NAMESPACE",) if is_everywhere else ()), *columns), rows)


def _status_row(view: View) -> tuple[str, ...]:
    notes = view["notes"]
    more = f" (and {len(notes) - 1} more)" if len(notes) > 1 else ""
    return (
        view["name"], view["phase"] or "-", view["size"] or "-", view["cached"] or "-", view["capacity"] or "-",
        view["cached_percentage"] or "-", view["hit_ratio"] or "-", _part(view["workers"]), _part(view["fuses"]),
        _duration(view["age_seconds"]), f"{notes[0]}{more}" if notes else "",
    )  # fmt: skip


def _top_row(view: View) -> tuple[str, ...]:
    return (
        view["name"], view["size"] or "-", view["cached"] or "-", view["cached_percentage"] or "-",
        view["capacity"] or "-", view["used_percentage"] or "-", view["hit_ratio"] or "-",
        view["local_hit_ratio"] or "-", view["remote_hit_ratio"] or "-", str(view["pods"]), str(view["nodes"]),
    )  # fmt: skip


def _print_whole(view: View) -> None:
    lines = {
        "Dataset": f"{view['namespace']}/{view['name']}",
        "Phase": view["phase"] or "-",
        "Sources": ", ".join(view["sources"]),
        "Size": f"{view['size'] or '-'} in {view['files'] or '-'} files",
        "Cached": f"{view['cached'] or '-'} of {view['capacity'] or '-'} capacity ({view['used_percentage'] or '-'}), "
        f"{view['cached_percentage'] or '-'} of the data",
        "Hits": f"{view['hit_ratio'] or '-'} in the last 5 minutes: {view['local_hit_ratio'] or '-'} by the nodes "
        f"themselves, {view['remote_hit_ratio'] or '-'} by workers",
        "Masters": _part(view["masters"]),
        "Workers": _part(view["workers"]),
        "Fuses": _part(view["fuses"]),
        "Age": _duration(view["age_seconds"]),
    }
    for name, value in lines.items():
        print(f"{name + ':':<10}{printable(value)}")
    for note in view["notes"]:
        print(f"{'Note:':<10}{printable(note)}")
    if view["conditions"]:
        print()
        rows = [
            tuple(one[name] for name in ("kind", "type", "status", "reason", "since", "message"))
            for one in view["conditions"]
        ]
        print_table(_CONDITION_COLUMNS, rows)


def _part(part: Mapping[str, int] | None) -> str:
    return "-" if part is None else f"{part['ready']}/{part['desired']}"


def _yes(value: bool) -> str:  # noqa: FBT001
    return "yes" if value else "no"


def _duration(seconds: int) -> str:
    """As kubectl prints an age: its two largest units where that says more."""
    for index, (size, unit) in enumerate(_UNITS):
        if seconds >= size:
            text = f"{seconds // size}{unit}"
            if index + 1 < len(_UNITS) and seconds < 10 * size:
                smaller, its_unit = _UNITS[index + 1]
                if rest := seconds % size // smaller:
                    text += f"{rest}{its_unit}"
            return text
    return "0s"
