"""What is installed on a cluster: the committed manifests are the chart's, and give nobody more than they need."""

import re
import shlex
import tomllib

import pytest
import yaml

from csi.api import crds
from csi.base import driver
from csi.cli.parsing import parser
from csi.config.parameters import VolumeParameters
from csi.operator.startup_taint import TAINT_KEY
from csi.operator.store import OTHER_RUNTIMES
from tests.tools.manifests import (
    CLUSTER_WIDE,
    DEPLOY,
    NAMESPACE,
    ROOT,
    committed,
    containers,
    one,
    pods,
    render,
    rendered,
)

#: Containers that are privileged, for Bidirectional mount propagation, and host paths of their pods.
PRIVILEGED = {
    "keeper": {"/run/efc", "/sys/fs/cgroup", "/var/cache/efc"},
    "node": {
        "/run/efc",
        "/var/lib/kubelet/pods",
        f"/var/lib/kubelet/plugins/{driver.NAME}",
        "/var/lib/kubelet/plugins_registry",
    },
}
#: Capabilities of the others.
CAPABILITIES: dict[str, list[str]] = {
    "controller": ["NET_BIND_SERVICE"], "provisioner": [], "operator": [], "network": [],
}  # fmt: skip
SEEN = {"get", "list", "watch"}
#: Role -> resource -> verbs.
RULES = {
    "efc-provisioner": {
        "persistentvolumes": {"get", "list", "watch", "create", "patch", "delete"},
        "persistentvolumeclaims": {"get", "list", "watch", "update"},
        "storageclasses": {"get", "list", "watch"},
        "events": {"create", "patch"},
    },
    "efc-operator": {
        "nodes": {"get", "list", "watch", "patch"},
        "csinodes": {"get", "list", "watch"},
        "datasets": SEEN | {"patch", "delete"},
        "efcruntimes": SEEN | {"patch", "delete"},
        **{kind: {"list", "watch"} for kind in OTHER_RUNTIMES},
        "datasets/status": {"patch"},
        "efcruntimes/status": {"patch"},
        "statefulsets": SEEN | {"create", "patch"},
        "deployments": {"list", "watch"},
        "services": SEEN | {"create", "patch"},
        "persistentvolumeclaims": SEEN | {"create", "patch", "delete"},
        "persistentvolumes": SEEN | {"create", "patch", "delete"},
        "pods": {"list", "watch", "patch"},
        "secrets": {"get", "create", "patch"},
        "events": {"create", "list"},
    },
    "efc-datasets-view": {
        resource: {"get", "list", "watch"}
        for resource in ("datasets", "datasets/status", "efcruntimes", "efcruntimes/status", "efcruntimes/scale")
    },
    "efc-datasets-edit": {
        "datasets": {"create", "update", "patch", "delete", "deletecollection"},
        "efcruntimes": {"create", "update", "patch", "delete", "deletecollection"},
        "efcruntimes/scale": {"update", "patch"},
    },
}
#: In the driver's own namespace: role -> resource -> verbs.
OWN_RULES = {"efc-operator": {"leases": {"get", "create", "patch"}}}
ACCOUNTS = {"efc-provisioner": "efc-controller", "efc-operator": "efc-operator"}


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
    assert names == ["efc-controller", "efc-keeper", "efc-network", "efc-node", "efc-operator"]


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
        part = name.removeprefix("efc-")
        assert set(paths.values()) == PRIVILEGED.get(part, {"/run/efc/network"} if part == "network" else set())
        for container in pod["containers"]:
            for mount in container.get("volumeMounts", []):
                path = mount["mountPath"]
                # A container's own view of its cgroups stays where it is.
                assert path.removeprefix("/node") == paths.get(mount["name"], path)


def test_node_parts_have_no_way_to_the_api() -> None:
    objects = committed()
    accounts = {"efc-keeper", "efc-node", "efc-network"}
    for name, pod in pods(objects):
        assert pod["serviceAccountName"] == name
        assert pod["automountServiceAccountToken"] is (name == "efc-operator")
        assert one(objects, "ServiceAccount", name)["automountServiceAccountToken"] is False
        if name in accounts:
            assert all(
                set(volume) in ({"name", "hostPath"}, {"name", "configMap"}) for volume in pod.get("volumes", ())
            )
    bindings = [item for item in objects if item["kind"].endswith("RoleBinding")]
    bound = {binding["roleRef"]["name"]: [subject["name"] for subject in binding["subjects"]] for binding in bindings}
    assert bound == {role: [account] for role, account in ACCOUNTS.items()}
    controller = containers(objects)["controller"]
    assert [mount["mountPath"] for mount in controller["volumeMounts"]] == ["/csi"]


def test_provisioner_and_operator_have_the_rules_that_they_need() -> None:
    for kind, rules in (("ClusterRole", RULES), ("Role", OWN_RULES)):
        roles = {item["metadata"]["name"]: item for item in committed() if item["kind"] == kind}
        assert roles.keys() == rules.keys()
        for name, role in roles.items():
            given = [(resource, set(rule["verbs"])) for rule in role["rules"] for resource in rule["resources"]]
            assert dict(given) == rules[name]
            assert len(given) == len(rules[name]), "none is there twice"


def test_without_datasets_the_operator_may_touch_nothing_but_taints() -> None:
    objects = rendered("--set", "dataset.enabled=false")
    assert not [item for item in objects if item["kind"] == "Role"]
    given = [
        resource for rule in one(objects, "ClusterRole", "efc-operator")["rules"] for resource in rule["resources"]
    ]
    assert given == ["nodes", "csinodes"]
    assert "sysctls" not in dict(pods(objects))["efc-operator"]["securityContext"]


def test_users_roles_become_part_of_kubernetes_own() -> None:
    roles = [item["metadata"] for item in committed() if item["kind"] == "ClusterRole"]
    aggregated = {
        role["name"]: {label.rpartition("-to-")[2] for label in role["labels"] if "/aggregate-to-" in label}
        for role in roles
    }
    assert {name: targets for name, targets in aggregated.items() if targets} == {
        "efc-datasets-view": {"view"},
        "efc-datasets-edit": {"edit", "admin"},
    }


@pytest.mark.parametrize(
    ("options", "is_there"),
    [
        (["--set", "crds.install=auto"], True),
        (["--set", "crds.install=auto", "--kube-version", "1.28.0"], False),
        (["--set", "crds.install=auto", "--set", "dataset.enabled=false"], False),
        (["--set", "crds.install=always", "--kube-version", "1.28.0"], True),
        ([], False),
    ],
)
def test_crds_are_installed_on_request_and_stay(options: list[str], *, is_there: bool) -> None:
    found = [item for item in rendered(*options) if item["kind"] == "CustomResourceDefinition"]
    if not is_there:
        assert found == []
        return
    for crd, expected in zip(found, crds.crds(), strict=True):
        assert crd["metadata"].pop("annotations") == {"helm.sh/resource-policy": "keep"}
        assert crd == expected


def test_the_charts_crds_are_those_of_the_file() -> None:
    assert (DEPLOY / "chart" / "crds.yaml").read_text() == (DEPLOY / "crds.yaml").read_text(), "run make manifests"


def test_everything_in_the_way_of_the_startup_taints_removal_tolerates_it() -> None:
    for name, pod in pods(committed()):
        keys = {toleration.get("key", "*") for toleration in pod["tolerations"]}
        assert keys & {"*", TAINT_KEY}, name


def test_command_lines_are_ours() -> None:
    assert parser().parse_args(containers(committed())["operator"]["args"]).module == "csi.cli.operator"
    for name in ("node", "controller"):
        container = containers(committed())[name]
        parsed = parser().parse_args(container["args"])
        assert parsed.service == name
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            if probe in container:
                program, *arguments = container[probe]["exec"]["command"]
                assert program == "efc"
                assert parser().parse_args(arguments).endpoint == parsed.endpoint


def test_versions_are_the_releases() -> None:
    release = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["package"]["version"]
    chart = yaml.safe_load((DEPLOY / "chart" / "Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (release, release)
    assert containers(committed())["node"]["image"] == f"efc-csi:{release}"


def test_a_network_of_daemons() -> None:
    name = "efc-network"
    objects = committed()
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


def test_helm_uninstall_asks_first() -> None:
    hooks = [item for item in rendered("--no-hooks=false") if "helm.sh/hook" in item["metadata"].get("annotations", {})]
    assert [item["kind"] for item in hooks] == ["ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Job"]
    for item in hooks:
        assert item["metadata"]["annotations"]["helm.sh/hook"] == "pre-delete"
        assert "hook-failed" not in item["metadata"]["annotations"]["helm.sh/hook-delete-policy"], (
            "its log is the reason"
        )
    job = hooks[-1]["spec"]
    assert job["backoffLimit"] == 0
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    parsed = parser().parse_args(container["args"])
    assert parsed.module == "csi.cli.in_use"
    grace = parser().parse_args(containers(committed())["node"]["args"]).idle_grace
    assert grace < parsed.again_after < job["activeDeadlineSeconds"] - 60
    assert [(rule["resources"], rule["verbs"]) for rule in hooks[1]["rules"]] == [
        (["persistentvolumes", "pods"], ["list"]),
        (["datasets", "efcruntimes"], ["list"]),
    ]
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert pod["securityContext"]["runAsNonRoot"]
    assert not [item for item in committed() if "uninstall" in item["metadata"]["name"]], "only helm runs hooks"
    assert not [
        item
        for item in rendered("--no-hooks=false", "--set", "uninstallGuard.enabled=false")
        if "uninstall" in item["metadata"]["name"]
    ]


def test_the_example_class_lets_pods_that_are_not_root_into_subpaths() -> None:
    """Its directory is made as root, with the volume's permissions; set-group-ID hands the volume's group down."""
    for item in yaml.safe_load_all((DEPLOY / "examples" / "storageclass.yaml").read_text()):
        parameters = VolumeParameters.parse(
            item["parameters"] | {f"csi.storage.k8s.io/{key}": "x" for key in ("pvc/namespace", "pvc/name", "pv/name")}
        )
        assert parameters.mode & 0o2070 == 0o2070
        assert parameters.gid != 0


def test_the_documented_installation_by_helm() -> None:
    text = (ROOT / "docs" / "QUICKSTART.md").read_text()
    (command,) = re.findall(r"^helm install (.*?)\n(?! )", text, re.MULTILINE | re.DOTALL)
    name, chart, *options = shlex.split(command.replace("\\\n", " "))
    assert (name, ROOT / chart) == ("efc", DEPLOY / "chart")
    assert options[:2] == ["--namespace", NAMESPACE]
    objects = rendered(*options[2:])
    assert containers(objects)["node"]["image"] == "registry.example.com/efc-csi:dev"
    assert parser().parse_args(containers(objects)["controller"]["args"]).source == ["nfs://10.77.0.1/export"]
    label = one(committed(), "Namespace", NAMESPACE)["metadata"]["labels"]
    assert label == {"pod-security.kubernetes.io/enforce": "privileged"}
    assert f"kubectl label namespace {NAMESPACE} pod-security.kubernetes.io/enforce=privileged" in text
