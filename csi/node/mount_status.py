"""Turns the status of a mount into sentences for people: what is wrong with it, and what follows from that."""

from collections.abc import Sequence

from csi._proto import efc_pb2
from csi.base.text import counted
from csi.config.mount_options import consistency_of
from csi.config.options import OPTIONS
from csi.config.several import Sources, origin_of_wire
from csi.node.keeper import options_of

#: As the alert EfcDaemonRestarting has it: so many deaths, and how long ago the last one must be.
_DEATHS_OFTEN, _YOUNG_MS = 3, 15 * 60_000


def suggestion_of(status: efc_pb2.MountStatus, *, is_read_only: bool) -> str:
    """What would serve a dataset better, or "" if nothing would. ``is_read_only``: nobody here writes to it."""
    if not is_read_only or consistency_of(options_of(status)) != "cto":
        return ""
    return "nobody on this node writes to it: with consistency=bounded the NAS would get fewer calls"


def unknown_of(options: Sequence[str]) -> str:
    """That these options of a dataset are not in force, and what to do; "" if all are."""
    if not options:
        return ""
    return (
        f"not in force: {', '.join(options)}, which the node's keeper, of an earlier release, does not know; delete "
        "the keeper's pod, and they come with the dataset's next mount"
    )


def workers_of(status: efc_pb2.MountStatus) -> str:
    """Which workers of a dataset are not used, and what that means; "" if all are."""
    options, cache = options_of(status).cache, status.stats.cache
    if options.workers and status.HasField("stats") and not status.stats.HasField("cache"):
        return f"its workers are not used: there is no key in {options.workers_key}"
    if cache.workers_ready == cache.workers:
        return ""
    missing = cache.workers - cache.workers_ready
    return f"{missing} of {cache.workers} workers do not answer, or answer later than the NAS, which is read instead"


_STORE = efc_pb2.StoreStats
#: `cache-free` unless it is given.
_FREE_PERCENT_DEFAULT = int(OPTIONS["cache-free"].default)
#: What it means that a local store is in this state.
_STORE_STATES = {
    _STORE.WAITING: "another daemon still uses its directory",
    _STORE.SLOW: "its disk is slower than the NAS, which is read instead",
    _STORE.READ_ONLY: "its file system is read-only: it stores nothing new",
    _STORE.FAILED: "its disk fails, or its directory has gone: the NAS is read instead (the daemon's log says more)",
}
#: In which it stores nothing new.
_STORES_SHUT = (_STORE.READ_ONLY, _STORE.FULL, _STORE.FAILED)


def store_of(status: efc_pb2.MountStatus) -> str:
    """Why a dataset's local store does not do all that it should, or "" if it does."""
    if status.store_missing:
        return f"it has no local store: {status.store_missing}"
    store = status.stats.store
    problem = _full(status) if store.state == _STORE.FULL else _STORE_STATES.get(store.state)
    return f"its local store {status.store}: {problem}" if problem else ""


def _full(status: efc_pb2.MountStatus) -> str:
    store, percent = status.stats.store, options_of(status).cache.store_free_percent or _FREE_PERCENT_DEFAULT
    if not store.disk_bytes:
        return "its file system is full, or has no more free space than 'cache-free' reserves: it stores nothing new"
    free = f"{store.disk_free_bytes >> 20:,} of {store.disk_bytes >> 20:,} MiB free"
    kept = store.disk_bytes // 100 * percent
    if store.disk_free_bytes < kept + store.disk_bytes // 100:
        return (
            f"its file system has {free}, and cache-free={percent} leaves {kept >> 20:,} MiB ({percent} %) to others: "
            "it stores nothing new; make room there, or set a smaller cache-free"
        )
    return f"its file system accepts no more data (a quota?), with {free}: it stores nothing new; make room there"


_PASSTHROUGH = efc_pb2.PassthroughStats
#: Why the kernel does not read files of a local store by itself, though the options ask for it.
_PASSTHROUGH_STATES = {
    _PASSTHROUGH.KERNEL: "the kernel has no FUSE passthrough: it came with Linux 6.9",
    _PASSTHROUGH.MOUNT: "it was mounted without, with other options or by an earlier release: unmount, and mount again",
    _PASSTHROUGH.KEEPER: "the keeper does not answer, or is of an earlier release",
    _PASSTHROUGH.REFUSED: "the kernel does not accept files of the store (the daemon's log says why)",
    _PASSTHROUGH.STORE: "it has no local store",
}


def passthrough_of(status: efc_pb2.MountStatus) -> str:
    """Whether the kernel reads files of a dataset's local store by itself: "on", or why not."""
    options, stats = options_of(status), status.stats
    if not options.cache.store_mib:
        return _PASSTHROUGH_STATES[_PASSTHROUGH.STORE]
    if consistency_of(options) != "sealed":
        return "it is for consistency=sealed"
    if options.cache.passthrough == "off":
        return "off"
    if options.freshness.small_files:
        return "it was mounted with small-files, with which the kernel opens files by itself"
    if not stats.HasField("passthrough"):
        return "the daemon has not reported it: it is of an earlier release, or starting"
    return "on" if stats.passthrough.state == _PASSTHROUGH.ON else _PASSTHROUGH_STATES[stats.passthrough.state]


def missing_sources(status: efc_pb2.MountStatus) -> list[str]:
    """Which of several sources are not there, and why; each in one sentence."""
    sources = status.stats.sources
    origin = origin_of_wire(options_of(status)) if sources else None
    places = {one.path: f" ({one.source})" for one in origin.mounted} if isinstance(origin, Sources) else {}
    missing = [
        f"source {one.path} is missing{places.get(one.path, '')}: {one.reason}" for one in sources if not one.attached
    ]
    return missing + [
        f"source {one.path}: its NAS does not answer" for one in sources if one.attached and not one.responding
    ]


def replacements_of(status: efc_pb2.MountStatus) -> str:
    """How often a mount's daemon was replaced, and why the last that died did; "" if it never was."""
    if not status.restarts:
        return ""
    upgrades = f", {status.upgrades} of them by upgrades" if status.upgrades else ""
    died = f" (the last that died: {status.reason})" if status.reason else ""
    return f"{counted(status.restarts, 'restart')}{upgrades}{died}"


def dies_again_and_again(status: efc_pb2.MountStatus) -> bool:
    """Whether a mount's daemons have died often, and the present one is young."""
    return status.restarts - status.upgrades >= _DEATHS_OFTEN and status.stats.uptime_ms < _YOUNG_MS


def takes_nothing(status: efc_pb2.MountStatus, *, store: bool, workers: bool) -> bool:
    """Whether none of these levels of a dataset's caches that it has takes anything in now."""
    cache = options_of(status).cache
    store_takes = cache.store_mib and not status.store_missing and status.stats.store.state not in _STORES_SHUT
    workers_take = (cache.workers or status.stats.cache.workers) and status.stats.cache.workers_ready
    return not (store and store_takes) and not (workers and workers_take)


def silence_of(status: efc_pb2.MountStatus) -> str:
    """That the NAS does not answer, and for how long; "" if it does."""
    if status.state != efc_pb2.MountStatus.UNRESPONSIVE_NAS:
        return ""
    return f"the NAS has not answered for {status.stats.nfs.oldest_call_ms // 1000} s"


def condition_of(status: efc_pb2.MountStatus) -> str:
    """Why a daemon is not as it should be, in one sentence, or "" if it is."""
    return "; ".join(filter(None, [_own_condition_of(status), status.network_trouble]))


def _own_condition_of(status: efc_pb2.MountStatus) -> str:
    return state_of(status) or "; ".join([*missing_sources(status), *full_tables(status)])


def state_of(status: efc_pb2.MountStatus) -> str:
    """Why a daemon does not serve, in one sentence, or "" if it does."""
    states = efc_pb2.MountStatus
    reason = f": {status.reason}" if status.reason else ""
    if status.state == states.RESTARTING:
        return f"the daemon is being restarted{reason}"
    if status.state == states.UNRESPONSIVE_NAS:
        silent = ", ".join(one.path for one in status.stats.sources if one.attached and not one.responding)
        return f"the NAS{silent and f' of {silent}'} does not answer{reason}"
    if status.state == states.ABORTED:
        by = "the driver mounts a published volume again, efc mount another one"
        return f"its FUSE connection was aborted{reason}; {by}"
    if status.state == states.STARTING:
        return f"the daemon is connecting to the NAS{reason}"
    return ""


def full_tables(status: efc_pb2.MountStatus) -> list[str]:
    """Which tables of a daemon have no room, and what that means; each in one sentence."""
    state = status.stats.state
    if not state.nodes_max or state.nodes < state.nodes_max:
        return []
    why = f"the kernel knows {state.nodes} files, as many as the daemon's memory limit allows: look-ups of others fail "
    return [why + "with ENOMEM until it forgets some; raise --daemon-memory-max, or memory-max"]
