"""What the chart makes of its values, and which it refuses."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from csi.base import driver
from csi.cli.parsing import parser
from csi.config import allowed_sources
from csi.config.parameters import VolumeParameters
from tests.tools.manifests import DEPLOY, NAMESPACE, ROOT, committed, containers, one, pods, render, rendered


def test_another_kubelet_root_and_run_directory_are_used_everywhere() -> None:
    done = render("--set", "kubeletRoot=/data/kubelet,runDir=/run/other")
    assert "/var/lib/kubelet" not in done.stdout
    assert "/run/efc" not in done.stdout
    assert "--registration-dir=/data/kubelet/plugins_registry" in done.stdout
    objects = list(yaml.safe_load_all(done.stdout))
    for name in ("keeper", "node"):  # what `kubectl exec` runs there has no --run-dir
        assert {"name": "RUN_DIR", "value": "/run/other"} in containers(objects)[name]["env"]


def test_without_sources_there_is_no_controller() -> None:
    objects = rendered("--set-json", "controller.sources=[]", "--set", "operator.enabled=false")
    assert {name for name, _ in pods(objects)} == {"efc-keeper", "efc-node", "efc-network"}
    assert not [item for item in objects if "Role" in item["kind"] or item["kind"] == "NetworkPolicy"]


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
        parsed = parser().parse_args(containers(objects)["node"]["args"])
        assert parsed.allowed_sources == Path("/etc/efc/inline/allowed-sources.json")
    assert one(committed(), "CSIDriver", driver.NAME)["spec"]["podInfoOnMount"], "it says a pod's namespace"


def test_allowed_sources_reach_the_operator(notes: Callable[..., str]) -> None:
    """Without a list all is allowed; an empty one allows nothing."""
    assert parser().parse_args(containers(committed())["operator"]["args"]).allowed_sources is None
    for rules in ([], [{"namespaces": ["team-a", "build-*"], "sources": ["nfs://nas/data/team"]}]):
        objects = rendered("--set-json", f"dataset.allowedSources={json.dumps(rules)}")
        text = one(objects, "ConfigMap", "efc-datasets")["data"]["allowed-sources.json"]
        assert len(allowed_sources.parse(text.encode())) == len(rules)
        operator = containers(objects)["operator"]
        file = Path("/etc/efc/datasets/allowed-sources.json")
        assert parser().parse_args(operator["args"]).allowed_sources == file
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
    assert "has not replaced the pods of efc-keeper and efc-network" in upgraded
    assert "Replace efc-keeper first" in upgraded
    assert "efc-csi:new" in upgraded
    assert "component in (keeper,network)" in upgraded
    upgraded = notes("--is-upgrade", "--set", "network.enabled=false")
    assert "component in (keeper)" in upgraded
    assert "efc-network" not in upgraded


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
