"""The cluster that a person means: ``--kubeconfig``, ``--context``, KUBECONFIG, ``~/.kube/config``, else the pod's own.

kopf reads kubeconfigs, but knows neither contexts other than the current one nor users that log in by a program
(``exec``: EKS, GKE, AKS and others). Where ``kubectl`` is installed it says what its configuration comes to, the
program is asked for its credentials here, and kopf is given a file with what came of it.
"""

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

from csi.base.errors import Code, DriverError, invalid

_PROGRAM_SECONDS_MAX = 60.0
_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_EXEC_API = "client.authentication.k8s.io/v1"
_Json = dict[str, Any]


@contextlib.asynccontextmanager
async def connected(parsed: argparse.Namespace) -> "AsyncIterator[tuple[Any, str]]":
    """The :class:`csi.operator.cluster.Cluster`, and the namespace that is meant.

    Raises FAILED_PRECONDITION or INVALID_ARGUMENT, in words, if there are no credentials.
    """
    import kopf
    import yaml

    from csi.operator.cluster import Cluster

    cluster = Cluster()
    with _configuration(parsed):
        try:
            login = cluster.login(settings=kopf.OperatorSettings())
        except (OSError, KeyError, TypeError, AttributeError, ValueError, yaml.YAMLError, kopf.LoginError) as error:
            words = f"there is no {error}" if isinstance(error, KeyError) else str(error)
            raise DriverError(Code.FAILED_PRECONDITION, f"the kubeconfig cannot be used: {words}") from None
    if login is None:
        raise DriverError(
            Code.FAILED_PRECONDITION, "no credentials for the Kubernetes API: set KUBECONFIG, or give --kubeconfig"
        )
    try:
        yield cluster, parsed.namespace or login.default_namespace or _own_namespace() or "default"
    finally:
        await cluster.close()


def _own_namespace() -> str:
    try:
        return _NAMESPACE_FILE.read_text().strip()
    except OSError:
        return ""


@contextlib.contextmanager
def _configuration(parsed: argparse.Namespace) -> Iterator[None]:
    """Has KUBECONFIG name what is meant, for as long as it is read."""
    before = os.environ.get("KUBECONFIG")
    if parsed.kubeconfig:
        if not Path(parsed.kubeconfig).is_file():
            raise invalid(f"--kubeconfig {parsed.kubeconfig!r} is not a file")
        os.environ["KUBECONFIG"] = parsed.kubeconfig
    try:
        with contextlib.ExitStack() as files:
            if (found := _of_kubectl(parsed.context)) is not None:
                _log_in(found)
                file = files.enter_context(tempfile.NamedTemporaryFile("w", suffix=".kubeconfig"))  # its mode is 0600
                json.dump(found, file)
                file.flush()
                os.environ["KUBECONFIG"] = file.name
            yield
    finally:
        if before is None:
            os.environ.pop("KUBECONFIG", None)
        else:
            os.environ["KUBECONFIG"] = before


def _of_kubectl(context: str | None) -> _Json | None:
    """The one context of the kubeconfig that is meant, as kubectl reads it; None where there is no need to ask."""
    is_given = bool(os.environ.get("KUBECONFIG")) or Path("~/.kube/config").expanduser().exists()
    if not is_given and context is None:
        return None
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        if context is not None:
            raise invalid("--context needs kubectl, which is not installed here: kubectl config use-context NAME")
        return None
    command = [kubectl, "config", "view", "--raw", "--minify", "--flatten", "--output=json"]
    done = _run([*command, *([f"--context={context}"] if context is not None else [])], what="kubectl config view")
    found: _Json = _decoded(done, what="kubectl config view")
    return found


def _log_in(configuration: _Json) -> None:
    """Puts the credentials into ``configuration`` that the user's program gives, if the user has one."""
    for entry in configuration.get("users") or ():
        user = entry.get("user") or {}
        if program := user.get("exec"):
            status = _credentials(program)
            del user["exec"]
            for name, value in (
                ("token", status.get("token")),
                ("client-certificate-data", _encoded(status.get("clientCertificateData"))),
                ("client-key-data", _encoded(status.get("clientKeyData"))),
            ):
                if value:
                    user[name] = value


def _credentials(program: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a credential plugin answers (client-go's exec credentials)."""
    command = [str(program.get("command")), *map(str, program.get("args") or ())]
    version = str(program.get("apiVersion") or _EXEC_API)
    asked = {"apiVersion": version, "kind": "ExecCredential", "spec": {"interactive": False}}
    given = {str(one["name"]): str(one["value"]) for one in program.get("env") or ()}
    done = _run(command, what=command[0], environment={**given, "KUBERNETES_EXEC_INFO": json.dumps(asked)})
    status = _decoded(done, what=command[0]).get("status")
    if not isinstance(status, Mapping):
        raise DriverError(Code.FAILED_PRECONDITION, f"{command[0]} gave no credentials")
    return status


def _run(command: list[str], *, what: str, environment: Mapping[str, str] | None = None) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_PROGRAM_SECONDS_MAX, check=False,
            stdin=subprocess.DEVNULL, env={**os.environ, **(environment or {})},
        )  # fmt: skip
    except OSError as error:
        raise DriverError(Code.FAILED_PRECONDITION, f"{what} cannot be run: {error.strerror}") from None
    except subprocess.TimeoutExpired:
        raise DriverError(Code.FAILED_PRECONDITION, f"{what} did not end within {_PROGRAM_SECONDS_MAX:g} s") from None
    if done.returncode:
        words = done.stderr.strip() or f"it ended with status {done.returncode}"
        raise DriverError(Code.FAILED_PRECONDITION, f"{what}: {words}")
    return done.stdout


def _decoded(text: str, *, what: str) -> _Json:
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise DriverError(Code.FAILED_PRECONDITION, f"{what} gave something else than an object of JSON")
    return found


def _encoded(pem: str | None) -> str | None:
    import base64

    return base64.b64encode(pem.encode()).decode() if pem else None
