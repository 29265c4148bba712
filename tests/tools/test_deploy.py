"""What is installed on a cluster: the committed manifests are the chart's, and give nobody more than they need."""

import json
import os
import re
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from csi import cli
from csi.api import crds
from csi.base import driver
from csi.config import allowed_sources
from csi.config.parameters import VolumeParameters
from csi.operator import pki
from csi.operator.startup_taint import TAINT_KEY
from csi.operator.store import OTHER_RUNTIMES
from csi.operator.webhook import certificates, serving
from csi.operator.webhook.affinity import OPT_OUT_LABEL, PLACED_LABEL, SIDECAR_LABEL

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


WEBHOOK = ("--set", "webhook.enabled=true")


def test_the_webhook_is_off_unless_it_is_asked_for() -> None:
    assert not [item for item in committed() if "webhook" in json.dumps(item)]
    done = render(*WEBHOOK, "--set", "dataset.enabled=false")
    assert "webhook.enabled is true: it needs operator.enabled" in done.stderr


def test_the_webhook_is_asked_for_labelled_pods_alone_and_fails_closed() -> None:
    objects = rendered(*WEBHOOK)
    webhooks = one(objects, "MutatingWebhookConfiguration", "efc-webhook")["webhooks"]
    asked = {webhook["objectSelector"]["matchLabels"].popitem() for webhook in webhooks}
    assert asked == {(PLACED_LABEL, "true"), (SIDECAR_LABEL, "true")}
    (port,) = one(objects, "Service", "efc-webhook")["spec"]["ports"]
    for webhook in webhooks:
        assert webhook["failurePolicy"] == "Fail"
        assert webhook["sideEffects"] == "None"
        assert webhook["timeoutSeconds"] <= 5
        assert webhook["objectSelector"]["matchExpressions"] == [
            {"key": OPT_OUT_LABEL, "operator": "NotIn", "values": ["false"]}
        ]
        assert webhook["rules"] == [
            {
                "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"], "operations": ["CREATE"],
                "scope": "Namespaced",
            }
        ]  # fmt: skip
        (own,) = webhook["namespaceSelector"]["matchExpressions"]
        assert (own["operator"], own["values"]) == ("NotIn", [NAMESPACE])
        service = {"name": "efc-webhook", "namespace": NAMESPACE, "path": serving.PATH, "port": port["port"]}
        assert webhook["clientConfig"] == {"service": service}, "the authority is the operator's to write"
    (webhook,) = one(
        rendered(*WEBHOOK, "--set", "webhook.refuseSidecars=false"), "MutatingWebhookConfiguration", "efc-webhook"
    )["webhooks"]
    assert webhook["objectSelector"]["matchLabels"] == {PLACED_LABEL: "true"}


def test_the_webhook_may_read_datasets_and_sees_no_authority() -> None:
    objects = rendered(*WEBHOOK)
    assert one(objects, "ClusterRole", "efc-webhook")["rules"] == [
        {"apiGroups": ["data.fluid.io"], "resources": ["datasets"], "verbs": ["get"]}
    ]
    binding = one(objects, "ClusterRoleBinding", "efc-webhook")
    assert [subject["name"] for subject in binding["subjects"]] == ["efc-webhook"]
    assert not [item for item in objects if item["kind"] == "Role" and "webhook" in item["metadata"]["name"]]
    pod = dict(pods(objects))["efc-webhook"]
    (volume,) = pod["volumes"]
    assert volume["secret"]["secretName"] == certificates.NAME
    assert [item["key"] for item in volume["secret"]["items"]] == [pki.CERTIFICATE, pki.PRIVATE_KEY]
    assert pod["securityContext"]["runAsNonRoot"]
    container = containers(objects)["webhook"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
    }  # fmt: skip
    parsed = cli.parser().parse_args(container["args"])
    assert parsed.module == "csi.cli.webhook"
    (mount,) = container["volumeMounts"]
    assert parsed.certificate == Path(mount["mountPath"])
    for probe in ("readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"] == {"path": serving.READY_PATH, "port": "https", "scheme": "HTTPS"}
    assert cli.parser().parse_args(containers(objects)["operator"]["args"]).webhook
    assert not cli.parser().parse_args(containers(committed())["operator"]["args"]).webhook


def test_the_operator_may_change_the_webhooks_configuration_and_no_other() -> None:
    rules = one(rendered(*WEBHOOK), "ClusterRole", "efc-operator")["rules"]
    assert rules[:-1] == one(committed(), "ClusterRole", "efc-operator")["rules"]
    assert rules[-1] == {
        "apiGroups": ["admissionregistration.k8s.io"], "resources": ["mutatingwebhookconfigurations"],
        "resourceNames": [certificates.NAME], "verbs": ["get", "patch"],
    }  # fmt: skip


def test_the_webhook_has_settings_of_its_own() -> None:
    given = {
        "enabled": True, "replicas": 3, "port": 9999, "timeoutSeconds": 2,
        "nodeSelector": {"disk": "fast"}, "tolerations": [{"key": "k", "operator": "Exists"}],
        "podLabels": {"team": "storage"}, "podAnnotations": {"note": "n"}, "env": [{"name": "NAME", "value": "value"}],
        "serviceAccount": {"create": True, "name": "own"},
    }  # fmt: skip
    source = {"ipBlock": {"cidr": "192.0.2.1/32"}}
    objects = rendered(
        "--set-json", f"webhook={json.dumps(given)}", "--set-json", f"networkPolicy.webhookFrom={json.dumps([source])}"
    )
    deployment = one(objects, "Deployment", "efc-webhook")["spec"]
    assert deployment["replicas"] == 3
    assert deployment["template"]["metadata"]["labels"]["team"] == "storage"
    assert deployment["template"]["metadata"]["annotations"] == {"note": "n"}
    pod = deployment["template"]["spec"]
    assert (pod["serviceAccountName"], pod["nodeSelector"]["disk"]) == ("own", "fast")
    assert pod["tolerations"] == given["tolerations"]
    (container,) = pod["containers"]
    assert {"name": "NAME", "value": "value"} in container["env"]
    assert "--listen=$(POD_ADDRESS):9999" in container["args"]
    assert container["ports"] == [{"name": "https", "containerPort": 9999}]
    assert "podAntiAffinity" in pod["affinity"]
    webhooks = one(objects, "MutatingWebhookConfiguration", "efc-webhook")["webhooks"]
    assert {webhook["timeoutSeconds"] for webhook in webhooks} == {2}
    (rule,) = one(objects, "NetworkPolicy", "efc-webhook")["spec"]["ingress"]
    assert rule == {"ports": [{"port": "https", "protocol": "TCP"}], "from": [source]}
    (rule,) = one(rendered(*WEBHOOK), "NetworkPolicy", "efc-webhook")["spec"]["ingress"]
    assert "from" not in rule


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
    assert {name for name, _ in pods(objects)} == {"efc-keeper", "efc-node", "efc-network"}
    assert not [item for item in objects if "Role" in item["kind"] or item["kind"] == "NetworkPolicy"]


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
        assert len(allowed_sources.parse(text.encode())) == len(wanted)
        parsed = cli.parser().parse_args(containers(objects)["node"]["args"])
        assert parsed.allowed_sources == Path("/etc/efc/inline/allowed-sources.json")
    assert one(committed(), "CSIDriver", driver.NAME)["spec"]["podInfoOnMount"], "it says a pod's namespace"


def test_allowed_sources_reach_the_operator(notes: Callable[..., str]) -> None:
    """Without a list all is allowed; an empty one allows nothing."""
    assert cli.parser().parse_args(containers(committed())["operator"]["args"]).allowed_sources is None
    for rules in ([], [{"namespaces": ["team-a", "build-*"], "sources": ["nfs://nas/data/team"]}]):
        objects = rendered("--set-json", f"dataset.allowedSources={json.dumps(rules)}")
        text = one(objects, "ConfigMap", "efc-datasets")["data"]["allowed-sources.json"]
        assert len(allowed_sources.parse(text.encode())) == len(rules)
        operator = containers(objects)["operator"]
        file = Path("/etc/efc/datasets/allowed-sources.json")
        assert cli.parser().parse_args(operator["args"]).allowed_sources == file
        assert [mount["mountPath"] for mount in operator["volumeMounts"]] == [str(file.parent)]
        said = notes("--set-json", f"dataset.allowedSources={json.dumps(rules)}")
        assert f"({len(rules)} rules), and nothing else" in said
    assert "Every namespace may name every NAS" in notes()


def test_more_storage_classes() -> None:
    classes = [
        {"name": "kept", "parameters": {"source": "nfs://nas/x", "onDelete": "retain"}, "reclaimPolicy": "Retain"},
        {"name": "as-before", "parameters": {"server": "nas", "share": "/x"}, "mountOptions": ["nfsvers=3"]},
    ]
    objects = rendered(
        "--set-json", f"storageClasses={json.dumps(classes)}",
        "--set", "storageClass.create=true,storageClass.default=true,storageClass.parameters.source=nfs://nas/x",
        "--set", "storageClass.volumeBindingMode=WaitForFirstConsumer",
    )  # fmt: skip
    found = {item["metadata"]["name"]: item for item in objects if item["kind"] == "StorageClass"}
    assert set(found) == {"efc", "kept", "as-before"}
    assert {name: item["reclaimPolicy"] for name, item in found.items()} == {
        "efc": "Delete", "kept": "Retain", "as-before": "Delete",
    }  # fmt: skip
    assert found["as-before"]["mountOptions"] == ["nfsvers=3"]
    assert {item["volumeBindingMode"] for item in found.values()} == {"WaitForFirstConsumer"}
    assert [name for name, item in found.items() if "annotations" in item["metadata"]] == ["efc"], "one is the default"
    for item in found.values():
        VolumeParameters.parse(item["parameters"])


def test_keys_of_workers_are_a_secret_that_the_keeper_alone_sees() -> None:
    """Not readable for the users of daemons; and without the value there is none."""
    for name, pod in pods(rendered("--set", "keeper.secretName=workers")):
        secrets = [volume["secret"] for volume in pod.get("volumes", ()) if "secret" in volume]
        assert secrets == ([{"secretName": "workers", "defaultMode": 0o400}] if name == "efc-keeper" else [])
        mounts = [mount for container in pod["containers"] for mount in container.get("volumeMounts", ())]
        found = [mount for mount in mounts if mount["name"] == "secrets"]
        path = {"name": "secrets", "mountPath": "/etc/efc/secrets", "readOnly": True}
        assert found == ([path] if name == "efc-keeper" else [])
    assert not any("secret" in volume for _, pod in pods(rendered()) for volume in pod.get("volumes", ()))


PARTS = ("keeper", "node", "network", "controller", "operator")


@pytest.mark.parametrize("part", PARTS)
def test_each_part_has_settings_of_its_own(part: str) -> None:
    given = {
        "affinity": {"nodeAffinity": {"x": "y"}},
        "nodeSelector": {"disk": "fast"},
        "tolerations": [{"key": "k", "operator": "Exists"}],
        "podLabels": {"team": "storage"},
        "annotations" if part == "network" else "podAnnotations": {"note": "n"},
        "hostAliases": [{"ip": "192.0.2.7", "hostnames": ["nas"]}],
        "env": [{"name": "NAME", "value": "value"}],
        "serviceAccount": {"create": True, "name": "own"},
    }
    objects = rendered("--set-json", f"{part}={json.dumps(given)}")
    for name in PARTS:
        (item,) = (found for found in objects if found["metadata"]["name"] == f"efc-{name}" and "spec" in found
                   and "template" in found["spec"])  # fmt: skip
        template = item["spec"]["template"]
        pod, is_it = template["spec"], name == part
        assert (pod["serviceAccountName"] == "own") is is_it
        assert (pod.get("affinity") == given["affinity"]) is is_it
        assert (pod["nodeSelector"].get("disk") == "fast") is is_it
        assert (pod["tolerations"] == given["tolerations"]) is is_it
        assert (pod.get("hostAliases") == given["hostAliases"]) is is_it
        assert ({"name": "NAME", "value": "value"} in pod["containers"][0].get("env", [])) is is_it
        assert (template["metadata"]["labels"].get("team") == "storage") is is_it
        assert (template["metadata"].get("annotations") == {"note": "n"}) is is_it
        assert item["spec"]["selector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
    accounts = {item["metadata"]["name"] for item in objects if item["kind"] == "ServiceAccount"}
    assert accounts == {f"efc-{name}" for name in PARTS if name != part} | {"own"}
    bound = {item["subjects"][0]["name"] for item in objects if item["kind"] == "ClusterRoleBinding"}
    assert bound == {"own" if name == part else f"efc-{name}" for name in ("controller", "operator")}


def test_accounts_that_are_there_already_are_not_made() -> None:
    objects = rendered("--set", "node.serviceAccount.create=false,node.serviceAccount.name=theirs")
    names = {item["metadata"]["name"] for item in objects if item["kind"] == "ServiceAccount"}
    assert names == {"efc-keeper", "efc-network", "efc-controller", "efc-operator"}
    assert dict(pods(objects))["efc-node"]["serviceAccountName"] == "theirs"


@pytest.mark.parametrize(
    "setting", ["imageRegistry=r.example.com/mirror/", "global.imageRegistry=r.example.com/mirror"]
)
def test_a_registry_in_front_of_all_images(setting: str) -> None:
    objects = rendered("--set", setting, "--no-hooks=false")
    images = re.findall(r"image: (\S+)", yaml.safe_dump_all(objects))
    assert len(images) == 7
    assert all(image.startswith("r.example.com/mirror/") and "//" not in image for image in images), images


def test_labels_of_everything() -> None:
    for item in rendered("--set", "commonLabels.owner=storage", "--no-hooks=false"):
        if item["kind"] != "Namespace":
            assert item["metadata"]["labels"]["owner"] == "storage", item
        if item["kind"] in {"DaemonSet", "Deployment"}:
            assert item["spec"]["template"]["metadata"]["labels"]["owner"] == "storage"
            assert "owner" not in item["spec"]["selector"]["matchLabels"], "it could never be changed"


def test_several_controllers_have_a_leader() -> None:
    one_controller = containers(committed())["provisioner"]["args"]
    assert not [argument for argument in one_controller if "leader" in argument]
    objects = rendered("--set", "controller.replicas=2")
    deployment = one(objects, "Deployment", "efc-controller")
    assert (deployment["spec"]["replicas"], deployment["spec"]["strategy"]) == (2, {"type": "RollingUpdate"})
    assert "--leader-election" in containers(objects)["provisioner"]["args"]
    (rule,) = one(objects, "Role", "efc-provisioner")["rules"]
    assert rule["resources"] == ["leases"]
    binding = one(objects, "RoleBinding", "efc-provisioner")
    assert [subject["name"] for subject in binding["subjects"]] == ["efc-controller"]
    spread = deployment["spec"]["template"]["spec"]["affinity"]["podAntiAffinity"]
    (term,) = spread["preferredDuringSchedulingIgnoredDuringExecution"]
    assert term["podAffinityTerm"]["labelSelector"]["matchLabels"] == deployment["spec"]["selector"]["matchLabels"]


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
    parsed = cli.parser().parse_args(container["args"])
    assert parsed.module == "csi.cli.in_use"
    grace = cli.parser().parse_args(containers(committed())["node"]["args"]).idle_grace
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


@pytest.fixture
def notes(tmp_path: Path) -> Callable[..., str]:
    """NOTES.txt, as Helm prints it after an installation or an upgrade."""
    chart = tmp_path / "chart"
    shutil.copytree(DEPLOY / "chart", chart)
    (chart / "templates" / "NOTES.txt").rename(chart / "NOTES.txt")
    (chart / "templates" / "notes.yaml").write_text('kind: Notes\ntext: {{ tpl (.Files.Get "NOTES.txt") . | quote }}\n')

    def text(*options: str) -> str:
        render()  # skips without helm
        helm = str(ROOT / ".tools/bin/helm") if (ROOT / ".tools/bin/helm").exists() else "helm"
        command = [helm, "template", "efc", chart, "--namespace", NAMESPACE, "--kube-version", "1.34.0", *options]
        command += ["--show-only", "templates/notes.yaml"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        return str(yaml.safe_load(done.stdout)["text"])

    return text


def test_notes(notes: Callable[..., str]) -> None:
    installed = notes()
    assert f"kubectl label namespace {NAMESPACE} pod-security.kubernetes.io/enforce=privileged" in installed
    assert "delete pod" not in installed
    assert "kubectl apply --server-side -f deploy/crds.yaml" in installed
    assert "crds.yaml" not in notes("--set", "dataset.enabled=false")
    assert "nas.example.com is a placeholder" in installed
    assert "placeholder" not in notes("--set", "controller.sources={nfs://10.0.0.1/export}")
    upgraded = notes("--is-upgrade", "--set", "image.tag=new")
    assert "efc-keeper and efc-network are not rolled by itself" in upgraded
    assert "efc-csi:new" in upgraded
    assert "component in (keeper,network)" in upgraded
    assert "component in (keeper)" in notes("--is-upgrade", "--set", "network.enabled=false")


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("keeper.demonCgroup=x", "demonCgroup"),
        ("inline.allowedSources[0].namespaces={a*b},inline.allowedSources[0].sources={nfs://a/b}", "namespace"),
        ("inline.allowedSources[0].namespaces={a},inline.allowedSources[0].sources={nas:/x}", "nfs://HOST/PATH"),
        ("dataset.allowedSources[0].namespaces={a*b},dataset.allowedSources[0].sources={nfs://a/b}", "namespace"),
        ("dataset.allowedSources[0].namespaces={a},dataset.allowedSources[0].sources={nas:/x}", "nfs://HOST/PATH"),
        ("dataset.allowedSources[0].namespaces={a}", "sources"),
        ("keeper.daemonCgroup=../x", "letters, digits"),
        ("keeper.daemonUids=0-5", "range of user ids without root"),
        ("keeper.daemonUids=2000-1000", "FIRST must not be larger than LAST"),
        ("imageRegistry=https://registry.example.com", "without a scheme"),
        ("network.enable=true", "enable"),
        ("runDir=run/efc", "absolute path"),
        ("runDir=/run/../etc", "without '..'"),
        ("kubeletRoot=/", "absolute path"),
        ("image.pullPolicy=Sometimes", "IfNotPresent"),
        ("controller.sources={nas:/x}", "nfs://HOST/PATH"),
        ("storageClass.create=true", "source (nfs://HOST/PATH)"),
        ("storageClasses[0].name=x", '"x" has no parameter source'),
        ("storageClasses[0].parameters.source=nfs://a/b", "name"),
        (
            "storageClass.create=true,storageClass.parameters.source=nfs://a/b,storageClasses[0].name=efc",
            '"efc" is there twice',
        ),
        ("monitoring.podMonitor.interval=1h", "such as 30s"),
        ("node.podLabels.app\\.kubernetes\\.io/name=x", "the chart's own"),
        ("commonLabels.app\\.kubernetes\\.io/name=x", "the chart's own"),
        ("node.serviceAccount.create=false", "serviceAccount.name is missing"),
        ("controller.replicas=0", "minimum"),
    ],
)
def test_values_are_refused_in_words(setting: str, words: str) -> None:
    done = render("--set", setting)
    assert done.returncode != 0
    assert re.split(r"[.=\[]", setting)[0] in done.stderr
    assert words in done.stderr
    assert "^" not in done.stderr, "a regular expression is no message"


#: In kubectl's place: what a cluster would answer to the script's questions, and a note of anything else.
KUBECTL = """#!/bin/sh
case "$*" in
    "get persistentvolumes"*) cat "$ANSWERS/volumes" ;;
    "get pods"*) cat "$ANSWERS/pods" ;;
    "get daemonsets"*) ;;
    "get customresourcedefinitions"*) cat "$ANSWERS/crds" 2>/dev/null || true ;;
    "get datasets"*) cat "$ANSWERS/datasets" ;;
    "get efcruntimes"*) cat "$ANSWERS/efcruntimes" ;;
    *) echo "$*" >>"$ANSWERS/done" ;;
esac
"""
WITHOUT_WEBHOOK = "delete mutatingwebhookconfigurations -l app.kubernetes.io/name=efc-csi --ignore-not-found\n"
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


#: Answers about efc-node, whose DaemonSet is in the file `node`, as kubectl's jsonpath does.
KUBECTL_OF_A_NODE_PART = """#!/usr/bin/env python3
import json, os, re, sys
folder = os.environ["ANSWERS"]
command = " ".join(sys.argv[1:])
if command.startswith("get daemonsets"):
    value = json.load(open(folder + "/node"))
    for name in re.findall(r"[a-zA-Z]+|[0-9]+", re.search(r"jsonpath=[{].items.0.(.*)[}]", command)[1]):
        value = value[int(name)] if name.isdecimal() else value.get(name, "")
    print(value if isinstance(value, str) else json.dumps(value), end="")
elif command.startswith("get customresourcedefinitions"):
    pass
elif command.startswith("get "):
    print(open(folder + ("/pods" if command.startswith("get pods") else "/volumes")).read(), end="")
else:
    with open(folder + "/done", "a") as done:
        print(command, file=done)
    if command == "apply -f -":
        open(folder + "/applied", "w").write(sys.stdin.read())
    if command.startswith(os.environ.get("FAILS", "nothing fails")):
        sys.exit(1)
"""


@pytest.mark.parametrize("fails", ["nothing", "delete --ignore-not-found", "apply", "--namespace efc-system rollout"])
def test_uninstall_cleans_the_nodes(
    uninstall: Callable[..., subprocess.CompletedProcess[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fails: str,
) -> None:
    (tmp_path / "kubectl").write_text(KUBECTL_OF_A_NODE_PART)
    (tmp_path / "sleep").write_text("#!/bin/sh\n")
    (tmp_path / "sleep").chmod(0o755)
    node = one(rendered("--set", "runDir=/run/other,node.affinity.podAffinity.x=y"), "DaemonSet", "efc-node")
    (tmp_path / "node").write_text(json.dumps(node))
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("FAILS", fails)
    done = uninstall(pods="")
    assert (done.returncode != 0) is (fails == "delete --ignore-not-found")
    assert ("not every node is clean" in done.stderr) is (fails in ("apply", "--namespace efc-system rollout"))
    commands = (tmp_path / "done").read_text().splitlines()
    assert commands[0].startswith(f"--namespace {NAMESPACE} delete daemonsets -l app.kubernetes.io/name=efc-csi")
    assert commands[-1].startswith("delete --ignore-not-found -f")
    assert f"{commands[-2]}\n" == WITHOUT_WEBHOOK
    if fails != "apply":
        assert commands[-3].startswith(f"--namespace {NAMESPACE} delete daemonset efc-clean")
    cleaner = yaml.safe_load((tmp_path / "applied").read_text())
    pod, template = cleaner["spec"]["template"]["spec"], node["spec"]["template"]["spec"]
    assert cleaner["metadata"]["namespace"] == NAMESPACE
    assert cleaner["spec"]["selector"]["matchLabels"] == cleaner["spec"]["template"]["metadata"]["labels"]
    for name in ("nodeSelector", "tolerations", "affinity"):
        assert pod[name] == template[name]
    (container,) = pod["initContainers"]
    assert container["image"] == template["containers"][0]["image"]
    parsed = cli.parser().parse_args(container["args"])
    paths = {volume["name"]: volume["hostPath"]["path"] for volume in pod["volumes"]}
    assert paths == {
        "run": "/run",
        "plugins": "/var/lib/kubelet/plugins",
        "registry": "/var/lib/kubelet/plugins_registry",
    }
    assert (parsed.module, parsed.run_dir, parsed.kubelet_root) == (
        "csi.cli.clean_node",
        "/node/run/other",
        "/node/kubelet",
    )
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounts["run"] == "/node/run"
    assert mounts["registry"] == "/node/kubelet/plugins_registry"


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
    assert (tmp_path / "done").read_text() == (f"{WITHOUT_WEBHOOK}delete --ignore-not-found -f {DEPLOY}/efc-csi.yaml\n")
    assert uninstall("touch", str(tmp_path / "other-command"), pods=pods).returncode == 0
    assert (tmp_path / "other-command").exists()


def test_uninstall_refuses_while_there_are_datasets(
    uninstall: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    kinds = ("datasets", "efcruntimes")
    (tmp_path / "crds").write_text("".join(f"customresourcedefinition/{kind}.data.fluid.io\n" for kind in kinds))
    (tmp_path / "datasets").write_text("shop demo\nshop of-another-runtime\n")
    (tmp_path / "efcruntimes").write_text("shop demo\nshop without-dataset\n")
    done = uninstall(pods="")
    assert done.returncode == 1
    assert done.stderr.splitlines()[:-1] == [
        "dataset shop/demo is there", "efcruntime shop/demo is there", "efcruntime shop/without-dataset is there",
    ]  # fmt: skip
    assert "--with-datasets" in done.stderr
    assert not (tmp_path / "done").exists()

    assert uninstall("--with-datasets", "touch", str(tmp_path / "removed"), pods="").returncode == 0
    assert (tmp_path / "removed").exists()
    assert [line.split(" --ignore")[0] for line in (tmp_path / "done").read_text().splitlines()] == [
        "--namespace shop delete dataset.data.fluid.io demo",
        "--namespace shop delete efcruntime.data.fluid.io demo",
        "--namespace shop delete efcruntime.data.fluid.io without-dataset",
        WITHOUT_WEBHOOK.split(" --ignore", maxsplit=1)[0],
    ]

    (tmp_path / "efcruntimes").write_text("")
    assert uninstall("touch", str(tmp_path / "again"), pods="").returncode == 0, (
        "a Dataset of another runtime is not ours"
    )


def test_uninstall_removes_nothing_when_the_cluster_does_not_answer(
    uninstall: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    done = uninstall(pods=None)
    assert done.returncode == 1
    assert "does not answer" in done.stderr
    assert not (tmp_path / "done").exists()


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
    assert cli.parser().parse_args(containers(objects)["controller"]["args"]).source == ["nfs://10.77.0.1/export"]
    label = one(committed(), "Namespace", NAMESPACE)["metadata"]["labels"]
    assert label == {"pod-security.kubernetes.io/enforce": "privileged"}
    assert f"kubectl label namespace {NAMESPACE} pod-security.kubernetes.io/enforce=privileged" in text
