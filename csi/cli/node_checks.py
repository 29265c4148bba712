"""What ``efc doctor`` looks at in the node plugin's and the keeper's container of a cluster.

There it is a process beside others of the same mount namespace, whose command lines say what there should be. Nothing
must be told to it: ``kubectl exec POD -- efc doctor``. Command lines are read of processes of our own namespace only,
since those of a process that hangs on a file system may hang their reader.
"""

import argparse
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from csi.base import programs
from csi.base.errors import DriverError
from csi.cli import parsing
from csi.cli.finding import Finding
from csi.node import registration
from csi.node.inline import AllowedSources
from csi.node.mounts import FILE_SYSTEM_TYPE, Mount, beneath, containing, top
from csi.node.records import Publication, Publications
from csi.rpc import server

_CONNECT_SECONDS_MAX = 2.0
#: Most pods that one finding names.
_NAMED_MAX = 5
#: The folder, in that of a pod, where kubelet binds the subPaths of its volumes.
_SUB_PATHS = "volume-subpaths"


class Container:
    """The container that this process runs in, as the processes beside it tell."""

    def __init__(self, commands: Sequence[Sequence[str]]) -> None:
        #: The node plugin's options, if it is the node plugin's container.
        self.plugin = _node_plugin(commands)
        self.keeper_run_dir = _keeper_run_dir(commands)

    @classmethod
    def own(cls) -> "Container | None":
        """The container of this process, or None outside a cluster, where nothing of this is to be expected."""
        return cls(list(_neighbours())) if "KUBERNETES_SERVICE_HOST" in os.environ else None

    @property
    def run_dir(self) -> str | None:
        """The run directory of the node plugin or keeper that runs here; None in another container."""
        return self.keeper_run_dir if self.plugin is None else str(self.plugin.run_dir)


def _neighbours() -> Iterator[list[str]]:
    """Command lines of the processes of our mount namespace, ourselves left out."""
    own = os.readlink("/proc/self/ns/mnt")
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            if os.readlink(entry / "ns" / "mnt") == own and (line := (entry / "cmdline").read_bytes()):
                yield line.decode(errors="replace").rstrip("\0").split("\0")
        except OSError:
            continue


def _node_plugin(commands: Sequence[Sequence[str]]) -> argparse.Namespace | None:
    """The options of ``[python] efc csi node OPTIONS`` among the commands."""
    for command in commands:
        for start in range(len(command) - 1):
            if tuple(command[start : start + 2]) == ("csi", "node"):
                try:
                    return parsing.parser().parse_args(list(command[start:]))
                except SystemExit:  # of another release
                    return None
    return None


def _keeper_run_dir(commands: Sequence[Sequence[str]]) -> str | None:
    for command in commands:
        if os.path.basename(command[0]) == programs.KEEPER:
            options = [option.partition("=") for option in command[1:]]
            return next((value for name, _, value in options if name == "--run-dir"), None)
    return None


def check_container(container: Container, *, first_process: str | None = None) -> Iterator[Finding]:
    """Says whose container this is; what cannot be seen from it is not judged from it."""
    if container.run_dir is None:
        message = "neither the node plugin's nor the keeper's: kubectl exec into those for what concerns a node"
        yield Finding(check="container", level="ok", message=message)
        return
    whose = "keeper" if container.plugin is None else "node plugin"
    yield Finding(check="container", level="ok", message=f"the {whose}'s, with run directory {container.run_dir}")
    first_process = first_process or Path("/proc/1/comm").read_text().strip()
    if first_process == programs.KEEPER:
        yield Finding(
            check="container",
            level="fail",
            message="daemons cannot see the node's processes: supplementary groups of pods do not count",
            mend="hostPID: true in the keeper's pod",
        )
    elif container.plugin is not None and first_process == "efc":
        yield Finding(
            check="container",
            level="fail",
            message="the node's processes cannot be seen: dead mounts in running containers are not replaced",
            mend="hostPID: true in the node plugin's pod",
        )


def check_propagation(path: str, mounts: Sequence[Mount], *, who: str) -> Iterator[Finding]:
    """Mounts made beneath ``path`` here are seen by the node and by its other containers, and the other way round."""
    mount = containing(mounts, path)
    if mount is not None and mount.is_shared and mount.target != "/":
        yield Finding(check="propagation", level="ok", message=f"{path} is shared with the node")
    else:
        yield Finding(
            check="propagation",
            level="fail",
            message=f"{path} is not shared with the node: {who}",
            mend=f"mountPropagation: Bidirectional for {path} in the pod, and on the node: mount --make-rshared /",
        )


def check_sockets(plugin: argparse.Namespace) -> Iterator[Finding]:
    """Somebody listens where kubelet calls, and where it finds out about the driver."""
    endpoints = {"CSI": plugin.endpoint}
    if plugin.registration_dir:
        endpoints["registration"] = registration.socket_endpoint(plugin.registration_dir)
    for name, endpoint in endpoints.items():
        path = server.parse_endpoint(endpoint)
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.settimeout(_CONNECT_SECONDS_MAX)
                connection.connect(path)
        except OSError as error:
            reason = error.strerror or type(error).__name__
            yield Finding(
                check="sockets",
                level="fail",
                message=f"nobody listens at the {name} socket {path} ({reason}): kubelet does not reach the driver",
                mend="delete this pod; the log of the one before: kubectl logs --previous",
            )
        else:
            yield Finding(check="sockets", level="ok", message=f"the {name} socket {path} is served")


def unmounted(run_dir: str, mounts: Sequence[Mount]) -> list[Publication]:
    """Records without a mount: of volumes that are being mounted, or whose mount somebody removed."""
    return [record for record in Publications(run_dir).readable() if top(mounts, record.target) is None]


def check_records(
    run_dir: str, mounts: Sequence[Mount], *, roots: Sequence[str], conditions: Mapping[str, str] | None = None
) -> Iterator[Finding]:
    """Each record of a volume has its mount, and each mount of ours that kubelet asked for has its record.

    ``conditions``: key of a dataset -> why it is not as it should be. A volume of such a one is about to be mounted, or
    was being mounted when its daemon stopped to answer.
    """
    conditions = conditions or {}
    absent = unmounted(run_dir, mounts)
    publications = Publications(run_dir)
    published = {record.target for record in publications.readable()}
    waiting = [record for record in absent if record.key in conditions]
    stale = [_shown(publications, record) for record in absent if record.key not in conditions]
    targets = {mount.target for mount in mounts if mount.file_system_type == FILE_SYSTEM_TYPE}
    unknown = {target for target in targets if any(_is_volume(target, root) for root in roots)} - published
    for key in sorted({record.key for record in waiting}):
        names = [_shown(publications, record) for record in waiting if record.key == key]
        yield Finding(
            check="records",
            level="warn",
            message=f"{len(names)} volumes wait to be mounted, since {conditions[key]}: {_named(names)}",
            mend="nothing to do here: kubelet tries again until that is fixed",
        )
    if stale:
        yield Finding(
            check="records",
            level="warn",
            message=f"{len(stale)} volumes are recorded, but not mounted: {_named(stale)}",
            mend="look again in a minute: they may be about to be. If not, and those pods are still there, delete "
            "them; the records go when the node plugin starts anew",
        )
    if unknown:
        yield Finding(
            check="records",
            level="warn",
            message=f"{len(unknown)} mounts in pods' directories have no record: {_named(unknown)}",
            mend="when their pods are gone: umount them on the node",
        )
    if not absent and not unknown:
        yield Finding(check="records", level="ok", message=f"{len(published)} volumes are published, and mounted")


def _shown(publications: Publications, record: Publication) -> str:
    """A volume's target, and whose it is if that is known."""
    pod = publications.pod_of(record.target)
    return f"{record.target} of pod {pod}" if pod else record.target


def _is_volume(target: str, root: str) -> bool:
    """Whether a mount beneath ``root``, kubelet's folder of pods, is a volume and not one of kubelet's own binds of it.

    Those are subPaths: ``<pod>/volume-subpaths/<volume>/<container>/<number>``. kubelet makes and removes them.
    """
    if not beneath(target, root):
        return False
    parts = target.removeprefix(root.rstrip("/") + "/").split("/")
    return parts[1:2] != [_SUB_PATHS]


def check_allowed_sources(file: Path | None) -> Iterator[Finding]:
    """The list of what may be mounted inline can be read."""
    try:
        rules = AllowedSources(file).rules()
    except DriverError as error:
        mend = "correct inline.allowedSources of the chart (ConfigMap efc-inline)"
        yield Finding(check="inline", level="fail", message=error.message, mend=mend)
        return
    if rules:
        yield Finding(check="inline", level="ok", message=f"inline volumes are allowed by {len(rules)} rules of {file}")
    else:
        yield Finding(check="inline", level="ok", message="no inline volume is allowed (the list is empty)")


def _named(volumes: Sequence[str] | set[str]) -> str:
    names = sorted(volumes)
    more = f" and {len(names) - _NAMED_MAX} more" if len(names) > _NAMED_MAX else ""
    return ", ".join(names[:_NAMED_MAX]) + more
