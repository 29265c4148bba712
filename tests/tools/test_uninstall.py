"""deploy/uninstall removes all of an installation, and nothing that somebody still uses."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from csi.base import driver
from csi.cli.parsing import parser
from tests.tools.manifests import DEPLOY, NAMESPACE, one, rendered

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
    parsed = parser().parse_args(container["args"])
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
        "dataset shop/demo exists", "efcruntime shop/demo exists", "efcruntime shop/without-dataset exists",
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
