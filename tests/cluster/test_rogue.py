"""Pods that are up to no good: none reaches the driver's sockets, records and secrets, or another tenant's volume.

The attacker has Python, in the driver's own image, and a volume of its own on the NAS that has the victim's too. Each
attempt is written so that it would print something if it succeeded; what all of them see is checked to be themselves.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.cluster.cluster import DRIVER, IMAGE, SYSTEM_NAMESPACE, Namespace, pod
from tests.support.processes import wait_until

_NODE = "n1"
_SECRET = "what only the victim may read"
_KUBELET = "/var/lib/kubelet"

#: Prints a line for each attempt that got somewhere. argv: the secret's content.
_ATTACK = r"""
import ctypes, os, socket, sys
secret = sys.argv[1].encode()

def got(what):
    print("GOT", what, flush=True)

def sockets():
    places = ["/run/efc/keeper.sock", "/run/efc/network/pod.sock", "KUBELET/plugins/DRIVER/csi.sock",
              "KUBELET/plugins_registry/DRIVER-reg.sock"]
    roots = ["", *(f"/proc/{name}/root" for name in os.listdir("/proc") if name.isdigit())]
    for kind in (socket.SOCK_STREAM, socket.SOCK_SEQPACKET):
        for path in [root + place for root in roots for place in places]:
            with socket.socket(socket.AF_UNIX, kind) as client:
                try:
                    client.connect(path)
                    got(f"connection to {path}")
                except OSError:
                    pass
    # Names without a file are the network namespace's: with hostNetwork, the node's.
    for line in open("/proc/net/unix").read().splitlines():
        if line.split()[-1].startswith("@") and "efc" in line:
            got(f"the name {line.split()[-1]}")

def processes():
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            comm = open(f"/proc/{name}/comm").read().strip()
        except OSError:
            continue
        if comm.startswith(("efc", "csi-", "kubelet")):
            got(f"a look at process {comm}")

def paths():
    for start in ("/data", "/data/inner", "/"):
        for depth in range(1, 8):
            for name in ("victim", "NAMESPACE-victim", "run/efc", "var/lib/kubelet/pods"):
                path = os.path.join(start, *[".."] * depth, name)
                if os.path.lexists(path):
                    got(path)
    os.chdir("/data/inner")
    os.chdir("..")
    os.chdir("..")
    if os.stat(".").st_dev == os.stat("/data").st_dev:
        got("what lies above the own volume's directory")

def links():
    # In the volume, pointing to where the victim's files are for the NAS, the node and the daemon.
    for number, aim in enumerate(["../NAMESPACE-victim/secret", "../victim/secret", "/run/efc", "KUBELET/pods",
                                  "/proc/1/root/run/efc"]):
        link = f"/data/link-{number}"
        if not os.path.islink(link):
            os.symlink(aim, link)
        try:
            got(os.listdir(link) if os.path.isdir(link) else open(link, "rb").read())
        except OSError:
            pass

def handles():
    libc = ctypes.CDLL(None, use_errno=True)
    class Handle(ctypes.Structure):
        _fields_ = [("size", ctypes.c_uint), ("type", ctypes.c_int), ("bytes", ctypes.c_ubyte * 128)]
    handle, mount = Handle(size=128), ctypes.c_int()
    libc.name_to_handle_at(-100, b"/data/inner", ctypes.byref(handle), ctypes.byref(mount), 0)
    anchor = os.open("/data", os.O_RDONLY)
    for node in range(1, 200):
        # FILEID_INO64_GEN-like: 64 bits of the node's number and a generation come first in a FUSE handle.
        handle.size, handle.type = 12, 0x81
        handle.bytes[:12] = [*node.to_bytes(8, "little")[4:], *node.to_bytes(8, "little")[:4], 0, 0, 0, 0]
        descriptor = libc.open_by_handle_at(anchor, ctypes.byref(handle), os.O_RDONLY)
        if descriptor >= 0:
            got(f"node {node} by its handle: {os.readlink(f'/proc/self/fd/{descriptor}')}")

def devices():
    try:
        os.mknod("/tmp/fuse", 0o20666, os.makedev(10, 229))
        os.open("/tmp/fuse", os.O_RDWR)
        got("/dev/fuse")
    except OSError:
        pass
    for path in ("/sys/fs/fuse/connections", "/sys/fs/cgroup/efc", "/sys/fs/cgroup/memory/efc"):
        try:
            if os.listdir(path):
                got(path)
        except OSError:
            pass

def everywhere():
    # Whatever else is mounted in here: no file of it is the victim's.
    for line in open("/proc/self/mountinfo"):
        target = line.split()[4]
        if " - fuse.efc " in line and target != "/data":
            got(f"the mount {target}")

for attempt in (sockets, processes, paths, links, handles, devices, everywhere):
    try:
        attempt()
    except OSError as error:
        print("failed", attempt.__name__, error)
print("own", open("/data/inner/own").read(), "user", os.geteuid(), "network", os.readlink("/proc/self/ns/net"))
print("DONE")
"""

_ORDINARY = {
    "runAsUser": 1000,
    "runAsGroup": 1000,
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
}
_ROOT: dict[str, Any] = {}


@pytest.fixture
def victim(namespace: Namespace) -> str:
    """Another tenant's pod with a secret in its volume, and a volume of the attacker's beside it on the NAS."""
    cluster = namespace.cluster
    for tenant in ("victim", "rogue"):
        (cluster.nas_folder / f"{namespace.name}-{tenant}" / "inner").mkdir(parents=True)
        (cluster.nas_folder / f"{namespace.name}-{tenant}").chmod(0o777)
        namespace.static_volume(tenant, source=cluster.nas_url, path=f"{namespace.name}-{tenant}")
    (cluster.nas_folder / f"{namespace.name}-rogue" / "inner" / "own").write_text("mine")
    namespace.apply(pod("victim", claims={"/data": "victim"}, node=_NODE))
    namespace.await_pods("victim")
    namespace.run("victim", f"echo -n '{_SECRET}' >/data/secret && chmod 666 /data/secret")
    return _SECRET


def rogue(namespace: Namespace, *, security: dict[str, Any], **spec: Any) -> str:
    """The log of an attacker with these rights."""
    script = _ATTACK.replace("KUBELET", _KUBELET).replace("DRIVER", DRIVER).replace("NAMESPACE", namespace.name)
    manifest = dict(pod("rogue", claims={"/data": "rogue"}, node=_NODE, image=IMAGE, **spec))
    (container,) = manifest["spec"]["containers"]
    container["command"] = ["/opt/efc/bin/python", "-c", script, _SECRET]
    container["securityContext"] = security
    namespace.apply(manifest)
    namespace.cluster.await_phase("rogue", "Succeeded", namespace=namespace.name)
    return namespace.cluster.kubectl("-n", namespace.name, "logs", "rogue")


@pytest.mark.parametrize(
    ("security", "spec"),
    [(_ORDINARY, {}), (_ROOT, {}), (_ROOT, {"hostNetwork": True})],
    ids=["ordinary", "root", "host-network"],
)
def test_a_rogue_pod_gets_nothing(
    namespace: Namespace, victim: str, security: dict[str, Any], spec: dict[str, Any]
) -> None:
    log = rogue(namespace, security=security, **spec)
    assert "DONE" in log, log
    assert "own mine user " + str(security.get("runAsUser", 0)) in log, log
    assert "GOT" not in log, log
    assert victim not in log
    assert namespace.run("victim", "cat /data/secret") == victim


def test_the_attack_finds_what_is_there(namespace: Namespace, victim: str) -> None:
    """The same attempts in a pod that may do everything: each sees something, so they are attempts."""
    log = rogue(namespace, security={"privileged": True}, hostPID=True, hostNetwork=True)
    for part in ("connection to /proc/", "keeper.sock", "csi.sock", "process efc-keeper", "by its handle", "/dev/fuse"):
        assert part in log, f"{part!r} in {log}"


def test_a_node_path_helps_only_root(namespace: Namespace, victim: str) -> None:
    """Where the cluster lets pods mount the node's folders, users other than root find them closed."""
    hidden = [{"name": "run", "hostPath": {"path": "/run/efc"}}, {"name": "kubelet", "hostPath": {"path": _KUBELET}}]
    manifest = dict(pod("rogue", claims={}, node=_NODE, command=["sleep", "infinity"]))
    manifest["spec"]["volumes"] = hidden
    (container,) = manifest["spec"]["containers"]
    container["volumeMounts"] = [{"name": item["name"], "mountPath": f"/{item['name']}"} for item in hidden]
    container["securityContext"] = _ORDINARY
    namespace.apply(manifest)
    namespace.await_pods("rogue")
    for path in ("/run", "/run/mnt", "/run/csi", "/run/keeper.sock", "/kubelet/plugins_registry", "/kubelet/pods"):
        assert "ermission denied" in namespace.fails("rogue", f"ls {path}/ && cat {path}"), path


def test_pod_security_refuses_the_rest(namespace: Namespace) -> None:
    """At the level that tenants' namespaces should have, the API refuses what would get further."""
    cluster = namespace.cluster
    cluster.kubectl("label", "namespace", namespace.name, "pod-security.kubernetes.io/enforce=baseline")
    base = dict(pod("rogue", claims={}))
    for change in (
        {"hostNetwork": True}, {"hostPID": True}, {"volumes": [{"name": "run", "hostPath": {"path": "/run/efc"}}]},
    ):  # fmt: skip
        manifest = {**base, "spec": {**base["spec"], **change}}
        with pytest.raises(AssertionError, match="violates PodSecurity"):
            namespace.apply(manifest)


def test_a_sub_path_that_is_a_link_leads_nowhere(namespace: Namespace, victim: str) -> None:
    """The attacker makes links in its volume and asks kubelet to mount what they point to."""
    folder = namespace.cluster.nas_folder / f"{namespace.name}-rogue"
    aims = {"beside": f"../{namespace.name}-victim", "root": "/", "run": "/run/efc", "above": ".."}
    for name, aim in aims.items():
        (folder / name).symlink_to(aim)
        namespace.apply(pod(f"rogue-{name}", claims={"/data": "rogue"}, node=_NODE, mount={"subPath": name}))
    for name, aim in aims.items():
        found: list[str] = []

        def refused_or_running(name: str = name, found: list[str] = found) -> bool:
            state = namespace.cluster.get("pod", f"rogue-{name}", namespace=namespace.name)
            assert state is not None
            found[:] = [json.dumps(status["state"]) for status in state["status"].get("containerStatuses", [])]
            return bool(found) and ("CreateContainer" in found[0] or "running" in found[0])

        wait_until(refused_or_running, what=f"the outcome of {name}", limit_s=60, interval_s=0.5)
        assert "CreateContainerConfigError" in found[0], f"{name} -> {aim}: {found}"


def test_an_inline_volume_of_a_guessed_path_is_refused(namespace: Namespace, victim: str) -> None:
    manifest = dict(pod("rogue", claims={}, node=_NODE))
    attributes = {"source": namespace.cluster.nas_url, "path": f"{namespace.name}-victim"}
    manifest["spec"]["volumes"] = [{"name": "data", "csi": {"driver": DRIVER, "volumeAttributes": attributes}}]
    manifest["spec"]["containers"][0]["volumeMounts"] = [{"name": "data", "mountPath": "/data"}]
    namespace.apply(manifest)
    namespace.await_message("rogue", "FailedMount")
    state = namespace.cluster.get("pod", "rogue", namespace=namespace.name)
    assert state is not None
    assert state["status"]["phase"] == "Pending"


def test_nobody_may_ask_for_the_drivers_secrets(namespace: Namespace) -> None:
    """Neither a tenant's service account nor those of the node parts, which are on every node."""
    cluster = namespace.cluster
    for account in (f"{namespace.name}:default", f"{SYSTEM_NAMESPACE}:efc-node", f"{SYSTEM_NAMESPACE}:efc-keeper"):
        for verb, what in (("get", "secrets"), ("create", "pods"), ("create", "pods/exec"), ("get", "pods")):
            answer = cluster.kubectl(
                "auth",
                "can-i",
                verb,
                what,
                "-n",
                SYSTEM_NAMESPACE,
                f"--as=system:serviceaccount:{account}",
                check=False,
            )
            assert answer.strip() == "no", (account, verb, what)
