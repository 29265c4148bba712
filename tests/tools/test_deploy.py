"""What is installed on a cluster: the committed manifests are the chart's, and give nobody more than they need."""

import json
import os
import shutil
import subprocess
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from csi import cli, driver, inline
from csi.operator.startup_taint import TAINT_KEY

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
NAMESPACE = "efc-system"
CLUSTER_WIDE = {"Namespace", "CSIDriver", "ClusterRole", "ClusterRoleBinding", "StorageClass"}
#: Containers that are privileged, for Bidirectional mount propagation, and host paths of their pods.
PRIVILEGED = {
    "keeper": {"/run/efc", "/sys/fs/cgroup"},
    "node": {
        "/run/efc",
        "/var/lib/kubelet/pods",
        f"/var/lib/kubelet/plugins/{driver.NAME}",
        "/var/lib/kubelet/plugins_registry",
    },
}
#: Capabilities of the others.
CAPABILITIES: dict[str, list[str]] = {"controller": ["NET_BIND_SERVICE"], "provisioner": [], "operator": []}
#: Role -> resource -> verbs.
RULES = {
    "efc-provisioner": {
        "persistentvolumes": {"get", "list", "watch", "create", "patch", "delete"},
        "persistentvolumeclaims": {"get", "list", "watch", "update"},
        "storageclasses": {"get", "list", "watch"},
        "events": {"create", "patch"},
    },
    "efc-operator": {"nodes": {"get", "list", "watch", "patch"}, "csinodes": {"get", "list", "watch"}},
}
ACCOUNTS = {"efc-provisioner": "efc-controller", "efc-operator": "efc-operator"}


def render(*options: str) -> subprocess.CompletedProcess[str]:
    """``deploy/render OPTIONS``; skips when there is no helm."""
    if not (ROOT / ".tools/bin/helm").exists() and shutil.which("helm") is None:
        pytest.skip("SKIPPED: no helm, so the chart cannot be rendered: make .tools/bin/helm")
    return subprocess.run([DEPLOY / "render", *options], capture_output=True, text=True, timeout=60, check=False)


def rendered(*options: str) -> list[dict[str, Any]]:
    done = render(*options)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def committed() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((DEPLOY / "efc-csi.yaml").read_text()))


def one(objects: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    (found,) = (item for item in objects if (item["kind"], item["metadata"]["name"]) == (kind, name))
    return found


def pods(objects: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and pod specification of each workload."""
    for item in objects:
        if item["kind"] in {"DaemonSet", "Deployment"}:
            yield item["metadata"]["name"], item["spec"]["template"]["spec"]


def containers(objects: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {container["name"]: container for _, pod in pods(objects) for container in pod["containers"]}


def test_committed_manifests_are_the_charts() -> None:
    assert render().stdout == (DEPLOY / "efc-csi.yaml").read_text(), "run make manifests"


def test_every_manifest_is_one() -> None:
    for path in [DEPLOY / "efc-csi.yaml", *sorted((DEPLOY / "examples").glob("*.yaml"))]:
        objects = list(yaml.safe_load_all(path.read_text()))
        assert objects, path
        for item in objects:
            assert item["apiVersion"], path
            assert item["kind"], path
            assert item["metadata"]["name"], path
    for item in committed():
        assert item["metadata"].get("namespace") == (None if item["kind"] in CLUSTER_WIDE else NAMESPACE), item
    names = sorted(name for name, _ in pods(committed()))
    assert names == ["efc-controller", "efc-keeper", "efc-node", "efc-operator"]


def test_no_container_may_do_more_than_it_needs() -> None:
    for name, container in containers(committed()).items():
        context = container["securityContext"]
        assert context["readOnlyRootFilesystem"], name
        if name in PRIVILEGED:
            assert context["privileged"]
            continue
        assert context["capabilities"] == {"drop": ["ALL"]} | (
            {"add": CAPABILITIES[name]} if CAPABILITIES[name] else {}
        ), name
        assert context["allowPrivilegeEscalation"] is False, name
        assert "privileged" not in context, name
    assert set(containers(committed())) == set(PRIVILEGED) | set(CAPABILITIES)


def test_host_paths_are_where_the_node_has_them() -> None:
    for name, pod in pods(committed()):
        volumes = pod.get("volumes", [])
        paths = {volume["name"]: volume["hostPath"]["path"] for volume in volumes if "hostPath" in volume}
        assert set(paths.values()) == PRIVILEGED.get(name.removeprefix("efc-"), set())
        for container in pod["containers"]:
            for mount in container.get("volumeMounts", []):
                path = mount["mountPath"]
                # A container's own view of its cgroups stays where it is.
                assert path.removeprefix("/node") == paths.get(mount["name"], path)


def test_node_parts_have_no_way_to_the_api() -> None:
    objects = committed()
    accounts = {"efc-keeper", "efc-node"}
    for name, pod in pods(objects):
        assert pod["serviceAccountName"] == name
        assert pod["automountServiceAccountToken"] is (name == "efc-operator")
        assert one(objects, "ServiceAccount", name)["automountServiceAccountToken"] is False
        if name in accounts:
            assert all(set(volume) in ({"name", "hostPath"}, {"name", "configMap"}) for volume in pod["volumes"])
    bindings = [item for item in objects if item["kind"].endswith("RoleBinding")]
    bound = {binding["roleRef"]["name"]: [subject["name"] for subject in binding["subjects"]] for binding in bindings}
    assert bound == {role: [account] for role, account in ACCOUNTS.items()}
    controller = containers(objects)["controller"]
    assert [mount["mountPath"] for mount in controller["volumeMounts"]] == ["/csi"]


def test_provisioner_and_operator_have_the_rules_that_they_need() -> None:
    roles = {item["metadata"]["name"]: item for item in committed() if item["kind"] in {"Role", "ClusterRole"}}
    assert roles.keys() == RULES.keys()
    for name, role in roles.items():
        given = {resource: set(rule["verbs"]) for rule in role["rules"] for resource in rule["resources"]}
        assert given == RULES[name]


def test_everything_in_the_way_of_the_startup_taints_removal_tolerates_it() -> None:
    for name, pod in pods(committed()):
        keys = {toleration.get("key", "*") for toleration in pod["tolerations"]}
        assert keys & {"*", TAINT_KEY}, name


def test_command_lines_are_ours() -> None:
    assert cli.parser().parse_args(containers(committed())["operator"]["args"]).module == "csi.cli.operator"
    for name in ("node", "controller"):
        container = containers(committed())[name]
        parsed = cli.parser().parse_args(container["args"])
        assert parsed.service == name
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            if probe in container:
                program, *arguments = container[probe]["exec"]["command"]
                assert program == "efc"
                assert cli.parser().parse_args(arguments).endpoint == parsed.endpoint


def test_versions_are_the_releases() -> None:
    release = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["package"]["version"]
    chart = yaml.safe_load((DEPLOY / "chart" / "Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (release, release)
    assert containers(committed())["node"]["image"] == f"efc-csi:{release}"


def test_another_kubelet_root_and_run_directory_are_used_everywhere() -> None:
    done = render("--set", "kubeletRoot=/data/kubelet,runDir=/run/other")
    assert "/var/lib/kubelet" not in done.stdout
    assert "/run/efc" not in done.stdout
    assert "--registration-dir=/data/kubelet/plugins_registry" in done.stdout


def test_without_sources_there_is_no_controller() -> None:
    objects = rendered("--set-json", "controller.sources=[]", "--set", "operator.enabled=false")
    assert {name for name, _ in pods(objects)} == {"efc-keeper", "efc-node"}
    assert not [item for item in objects if "Role" in item["kind"] or item["kind"] == "NetworkPolicy"]


def test_a_network_of_daemons() -> None:
    name = "efc-network"
    objects = rendered("--set", "network.enabled=true")
    (pod,) = (pod for found, pod in pods(objects) if found == name)
    assert one(objects, "ServiceAccount", name)["automountServiceAccountToken"] is False
    assert "hostNetwork" not in pod
    assert "hostPID" not in pod
    (container,) = pod["containers"]
    assert container["securityContext"] == {
        "runAsUser": 0, "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }  # fmt: skip
    (volume,) = pod["volumes"]
    assert volume["hostPath"]["path"] == "/run/efc/network", "the keeper's own socket is beside it, not in it"
    assert container["args"] == ["--socket=/run/efc/network/pod.sock"]


def test_a_storage_class() -> None:
    source = "nfs://nas/x?mountport=5"
    options = ("--set", f"storageClass.create=true,storageClass.default=true,storageClass.parameters.source={source}")
    storage_class = one(rendered(*options), "StorageClass", "efc")
    assert storage_class["parameters"] == {"source": source}
    assert storage_class["provisioner"] == driver.NAME


def test_allowed_sources_reach_the_node_part() -> None:
    rules = [{"namespaces": ["team-a", "build-*"], "sources": ['nfs://nas/with "quotes" and {{braces}}']}]
    options = ("--set-json", f"inline.allowedSources={json.dumps(rules)}")
    for wanted, objects in (([], committed()), (rules, rendered(*options))):
        text = one(objects, "ConfigMap", "efc-inline")["data"]["allowed-sources.json"]
        assert json.loads(text) == wanted
        assert len(inline.parse(text.encode())) == len(wanted)
        parsed = cli.parser().parse_args(containers(objects)["node"]["args"])
        assert parsed.allowed_sources == Path("/etc/efc/inline/allowed-sources.json")
    assert one(committed(), "CSIDriver", driver.NAME)["spec"]["podInfoOnMount"], "it says a pod's namespace"


@pytest.mark.parametrize(
    "setting",
    [
        "keeper.demonCgroup=x",
        "inline.allowedSources[0].namespaces={a*b}",
        "inline.allowedSources[0].sources={nas:/x}",
        "keeper.daemonCgroup=../x",
        "keeper.daemonUids=0-5",
        "network.enable=true",
        "runDir=run/efc",
        "runDir=/run/../etc",
        "kubeletRoot=/",
        "image.pullPolicy=Sometimes",
        "controller.sources={nas:/x}",
        "storageClass.create=true",
    ],
)
def test_values_that_are_refused(setting: str) -> None:
    done = render("--set", setting)
    assert done.returncode != 0
    assert setting.partition(".")[0].partition("=")[0] in done.stderr


#: In kubectl's place: what a cluster would answer to the script's three questions, and a note of anything else.
KUBECTL = """#!/bin/sh
case "$*" in
    "get persistentvolumes"*) cat "$ANSWERS/volumes" ;;
    "get pods"*) cat "$ANSWERS/pods" ;;
    "get daemonsets"*) ;;
    *) echo "$*" >>"$ANSWERS/done" ;;
esac
"""
VOLUMES = "shop/data pv-1 Delete\nshop/web-0-scratch pv-2 Delete\n"


@pytest.fixture
def uninstall(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    (tmp_path / "kubectl").write_text(KUBECTL)
    (tmp_path / "kubectl").chmod(0o755)

    def call(*arguments: str, pods: str | None) -> subprocess.CompletedProcess[str]:
        (tmp_path / "volumes").write_text(VOLUMES)
        if pods is not None:
            (tmp_path / "pods").write_text(pods)
        environment = os.environ | {"KUBECTL": str(tmp_path / "kubectl"), "ANSWERS": str(tmp_path)}
        command = [DEPLOY / "uninstall", *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30, check=False)

    return call


@pytest.mark.parametrize(
    ("pod", "reason"),
    [
        ("shop db Running n1 data|disk|", "pod shop/db on node n1 uses claim data (volume pv-1)"),
        ("shop db Pending n1 data|disk|", "pod shop/db on node n1 uses claim data (volume pv-1)"),
        ("shop web-0 Running n2 |token| |scratch|", "pod shop/web-0 on node n2 uses claim web-0-scratch (volume pv-2)"),
        (f"a b Running n3 |x|{driver.NAME}", "pod a/b on node n3 uses an inline volume, x"),
    ],
)
def test_uninstall_says_who_uses_volumes(
    uninstall: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path, pod: str, reason: str
) -> None:
    done = uninstall(pods=f"shop idle Running n1 |token|\n{pod}\n")
    assert done.returncode == 1
    assert done.stderr.splitlines()[0] == reason
    assert not (tmp_path / "done").exists()


def test_uninstall_removes_what_nobody_uses(
    uninstall: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    pods = "shop done Succeeded n1 data|disk|\nshop waits Pending  data|disk|\nother db Running n1 data|disk|\n"
    done = uninstall(pods=pods)
    assert (done.returncode, done.stderr) == (0, "")
    assert "shop/data pv-1 Delete" in done.stdout  # said to stay
    assert (tmp_path / "done").read_text() == f"delete --ignore-not-found -f {DEPLOY}/efc-csi.yaml\n"
    assert uninstall("touch", str(tmp_path / "other-command"), pods=pods).returncode == 0
    assert (tmp_path / "other-command").exists()


def test_uninstall_removes_nothing_when_the_cluster_does_not_answer(
    uninstall: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    done = uninstall(pods=None)
    assert done.returncode == 1
    assert "does not answer" in done.stderr
    assert not (tmp_path / "done").exists()
