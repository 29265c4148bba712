"""Which cluster is meant: contexts, users that log in by a program, and what is said when there are no credentials."""

from __future__ import annotations

import argparse
import json
import os
import ssl
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest

from csi.base.errors import DriverError
from csi.cli import kubectl, kubernetes
from csi.cli.dataset import _duration

#: Stands in for kubectl: of all it knows, `config view`, for a kubeconfig that is JSON.
KUBECTL = """#!/usr/bin/env python3
import json, os, sys
found = json.load(open(os.environ["KUBECONFIG"]))
context = next((a.partition("=")[2] for a in sys.argv if a.startswith("--context=")), found.get("current-context"))
if context is None:
    sys.exit("error: current-context must exist in order to minify")
if context not in [one["name"] for one in found["contexts"]]:
    sys.exit(f"error: cannot locate context {context}")
user = next(one["context"]["user"] for one in found["contexts"] if one["name"] == context)
found["users"] = [one for one in found["users"] if one["name"] == user]
found["contexts"] = [one for one in found["contexts"] if one["name"] == context]
print(json.dumps({**found, "current-context": context}))
"""
PROGRAM = """#!/bin/sh
echo "$KUBERNETES_EXEC_INFO" >"$ASKED"
echo '{"kind": "ExecCredential", "apiVersion": "client.authentication.k8s.io/v1", "status": {"token": "'$1'"}}'
"""


def configuration(**users: dict[str, Any]) -> dict[str, Any]:
    """One cluster that nothing listens at, and a context of each user's name, the first of them the current one."""
    return {
        "apiVersion": "v1", "kind": "Config", "current-context": next(iter(users)),
        "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:1"}}],
        "users": [{"name": name, "user": user} for name, user in users.items()],
        "contexts": [
            {"name": name, "context": {"cluster": "c", "user": name, "namespace": f"of-{name}"}} for name in users
        ],
    }  # fmt: skip


def executable(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder with nothing in it; kubectl is in its `bin`."""
    (tmp_path / "bin").mkdir()
    executable(tmp_path / "bin" / "kubectl", KUBECTL)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.delenv("KUBECONFIG", raising=False)
    return tmp_path


async def login(home: Path, found: dict[str, Any], *, context: str | None = None, namespace: str | None = None) -> Any:
    """The credentials, and the namespace that is meant."""
    file = home / "kubeconfig"
    file.write_text(json.dumps(found))
    parsed = argparse.Namespace(kubeconfig=str(file), context=context, namespace=namespace)
    async with kubernetes.connected(parsed) as (cluster, meant):
        assert "KUBECONFIG" not in os.environ
        return cluster._login, meant


async def test_another_context_is_another_user_and_namespace(home: Path) -> None:
    found = configuration(first={"token": "one"}, second={"token": "two"})
    credentials, namespace = await login(home, found)
    assert (credentials.token, namespace) == ("one", "of-first")
    credentials, namespace = await login(home, found, context="second")
    assert (credentials.token, namespace) == ("two", "of-second")
    assert (await login(home, found, namespace="given"))[1] == "given"
    with pytest.raises(DriverError, match="cannot locate context third"):
        await login(home, found, context="third")


async def test_a_user_that_logs_in_by_a_program(home: Path) -> None:
    program = executable(home / "login", PROGRAM)
    asked = home / "asked"
    user = {"exec": {"command": str(program), "args": ["s3cret"], "env": [{"name": "ASKED", "value": str(asked)}]}}
    credentials, _ = await login(home, configuration(first=user))
    assert credentials.token == "s3cret"
    assert json.loads(asked.read_text())["kind"] == "ExecCredential"
    # The token was in a file only while it was read.
    assert not [
        path for path in Path(os.environ.get("TMPDIR", "/tmp")).glob("*.kubeconfig") if "s3cret" in path.read_text()
    ]


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[str, str]:
    """A certificate and its key, PEM."""
    key, signed = tmp_path / "key", tmp_path / "certificate"
    made = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=x"
    subprocess.run(["openssl", *made.split(), "-keyout", key, "-out", signed], check=True, capture_output=True)
    return signed.read_text(), key.read_text()


async def test_a_program_that_gives_a_certificate(home: Path, certificate: tuple[str, str]) -> None:
    status = dict(zip(("clientCertificateData", "clientKeyData"), certificate, strict=True))
    answer = home / "answer"
    answer.write_text(json.dumps({"kind": "ExecCredential", "status": status}))
    credentials, _ = await login(home, configuration(first={"exec": {"command": "cat", "args": [str(answer)]}}))
    assert isinstance(credentials.as_ssl_context(), ssl.SSLContext)
    assert credentials.certificate_data
    assert credentials.token is None


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["false"], "false: it ended with status 1"),
        (["/nowhere/login"], "/nowhere/login cannot be run: No such file or directory"),
        (["echo", "hello"], "something else than an object of JSON"),
        (["echo", "{}"], "echo gave no credentials"),
    ],
)
async def test_a_program_that_does_not_do(home: Path, command: list[str], words: str) -> None:
    user = {"exec": {"command": command[0], "args": command[1:]}}
    with pytest.raises(DriverError, match=words):
        await login(home, configuration(first=user))


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Exit status, and standard error."""
    try:
        status = kubectl(arguments)
    except SystemExit as ended:
        status = int(ended.code or 0)
    return status, capsys.readouterr().err


def test_nothing_to_log_in_with_is_said(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, said = run(capsys, "status")
    assert status == 1
    assert "no credentials for the Kubernetes API: set KUBECONFIG" in said
    assert run(capsys, "status", "--kubeconfig", "/nowhere") == (1, "efc: --kubeconfig '/nowhere' is not a file\n")


@pytest.mark.parametrize("text", ["{}", "]", "contexts: [{name: x}]", "current-context: x"])
@pytest.mark.parametrize("without", ["", "kubectl"])
def test_a_broken_kubeconfig_is_said(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, text: str, without: str
) -> None:
    (home / "broken").write_text(text)
    if without:
        monkeypatch.setenv("PATH", "/nowhere")
    status, said = run(capsys, "status", "--kubeconfig", str(home / "broken"))
    assert status == 1
    assert said.startswith(("efc: the kubeconfig cannot be used: ", "efc: kubectl config view: "))


def test_a_context_needs_kubectl(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    status, said = run(capsys, "status", "--context", "x")
    assert status == 1
    assert "kubectl config use-context" in said


def test_a_server_that_is_away_is_said(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "kubeconfig").write_text(json.dumps(configuration(first={"token": "one"})))
    status, said = run(capsys, "status", "--kubeconfig", str(home / "kubeconfig"))
    assert status == 1
    assert "at the API server" in said


def test_names_are_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("where", "mounts", "adopt"):
        status, said = run(capsys, command)
        assert status == 2
        assert "NAME" in said


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (59, "59s"), (60, "1m"), (61, "1m1s"), (599, "9m59s"), (601, "10m"), (3600, "1h"), (3661, "1h1m"),
     (90_000, "1d1h"), (864_000, "10d"), (900_000, "10d")],
)  # fmt: skip
def test_ages_are_as_kubectl_prints_them(seconds: int, text: str) -> None:
    assert _duration(seconds) == text
