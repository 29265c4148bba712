"""Two tenants of one directory, with Datasets of one name: what one has opens nothing of the other's.

The attacker is a client of its own, in the cluster's network, with all that the Secrets of its namespace hold. Each
attempt is made with the victim's own Secret too, where it must succeed: a test that no client can pass proves nothing.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.cluster import Namespace, pod
from tests.cluster.test_dataset_quickstart import await_rest, kubectl, old
from tests.support.paths import ROOT
from tests.support.processes import wait_until

_FILE_MIB, _NAME = 16, "data"
_MANIFEST = """
apiVersion: data.fluid.io/v1alpha1
kind: Dataset
metadata: {{name: data}}
spec:
  placement: Shared
  mounts: [{{mountPoint: "{source}"}}]
---
apiVersion: data.fluid.io/v1alpha1
kind: EFCRuntime
metadata: {{name: data}}
spec:
  replicas: 1
  tieredstore: {{levels: [{{mediumtype: MEM, quota: 64Mi}}]}}
"""
#: argv: ADDRESS PORT FOLDER of ca.crt, tls.crt and tls.key, or "plain". Prints what a worker lets such a client do.
_CLIENT = r"""
import json, socket, ssl, sys
address, port, folder = sys.argv[1], int(sys.argv[2]), sys.argv[3]
def connected():
    plain = socket.create_connection((address, port), timeout=5)
    if folder == "plain":
        return plain
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # it does not care whom it attacks
    context.load_cert_chain(folder + "/tls.crt", folder + "/tls.key")
    return context.wrap_socket(plain)
def ask(link, command, end):
    link.sendall(command)
    answer = b""
    while not answer.endswith(end):
        piece = link.recv(65536)
        if not piece:
            raise OSError("closed")
        answer += piece
    return answer.decode(errors="replace")
did = {}
try:
    with connected() as link:
        link.settimeout(5)
        did["items"] = int(ask(link, b"stats\r\n", b"END\r\n").split("STAT curr_items ")[1].split()[0])
        did["stored"] = ask(link, b"set rogue 0 0 1\r\nx\r\n", b"\r\n").strip()
except OSError as error:
    did["refused"] = str(error)
print(json.dumps(did))
"""
#: argv: ADDRESS PORT FOLDER. What the master tells such a client, as a node.
_NODE = r"""
import json, sys
import grpc
from pathlib import Path
from csi._proto import dataset_pb2, dataset_pb2_grpc
address, port, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
read = lambda name: (folder / name).read_bytes()
# The server's certificate is believed as its own authority: this client does not care whom it attacks.
credentials = grpc.ssl_channel_credentials(Path(sys.argv[4]).read_bytes(), read("tls.key"), read("tls.crt"))
options = [("grpc.ssl_target_name_override", "master.efc"), ("grpc.enable_http_proxy", 0)]
did = {}
with grpc.secure_channel(f"{address}:{port}", credentials, options) as channel:
    reports = iter([dataset_pb2.NodeReport(node="rogue")])
    try:
        orders = next(dataset_pb2_grpc.MasterStub(channel).Connect(reports, timeout=10))
        did["key"] = len(orders.secrets.block_key)
    except grpc.RpcError as error:
        did["refused"] = str(error.code())
print(json.dumps(did))
"""


@pytest.fixture
def tenants(namespace: Namespace) -> Iterator[tuple[Namespace, Namespace]]:
    """Two namespaces with a Dataset of one name, of one directory: attacker and victim."""
    cluster = namespace.cluster
    other = Namespace(cluster=cluster, name=f"{namespace.name}-victim")
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": other.name}})
    wait_until(
        lambda: cluster.get("serviceaccount", "default", namespace=other.name), what="its service account", limit_s=60
    )
    folder = cluster.nas_folder / namespace.name
    folder.mkdir(mode=0o755)
    (folder / "file").write_bytes(os.urandom(_FILE_MIB << 20))
    old(folder / "file")
    source = f"nfs://{cluster.nas_address}:/export/{namespace.name}"
    for place in (namespace, other):
        kubectl(place, "create -f -", stdin=_MANIFEST.format(source=source))
    for place in (namespace, other):
        kubectl(place, f"wait --for=condition=Ready dataset/{_NAME} --timeout=60s")
        kubectl(place, f"wait --for=condition=WorkersReady efc/{_NAME} --timeout=90s", limit_s=100)
    yield namespace, other
    cluster.kubectl("-n", other.name, "delete", "pods", "--all", "--timeout=60s", limit_s=70)
    cluster.kubectl("-n", other.name, "delete", "datasets,efcruntimes", "--all", "--timeout=60s", limit_s=70)
    cluster.kubectl("delete", "namespace", other.name, "--wait=false")


def _credentials(place: Namespace, folder: Path, purpose: str) -> Path:
    """All that a Secret of a Dataset holds, as files."""
    secret = place.cluster.get("secret", f"{_NAME}-efc-{purpose}", namespace=place.name)
    assert secret is not None
    target = folder / f"{place.name}-{purpose}"
    target.mkdir()
    for name, value in secret["data"].items():
        (target / name).write_bytes(base64.b64decode(value))
    return target


def _address(place: Namespace, role: str) -> tuple[str, str]:
    (found,) = place.cluster.objects("pods", namespace=place.name, selector=f"role={role}")
    port = found["spec"]["containers"][0]["ports"][0]["containerPort"]
    return str(found["status"]["podIP"]), str(port)


def _run(place: Namespace, script: str, *arguments: object) -> dict[str, Any]:
    command = ["env", f"PYTHONPATH={ROOT}", sys.executable, "-c", script, *map(str, arguments)]
    found: dict[str, Any] = json.loads(place.cluster.on_node("n0", *command, limit_s=60))
    return found


def _read(place: Namespace, node: str) -> str:
    """Digest of the file as a new pod of a node reads it."""
    place.apply(pod(f"reader-{node}", claims={"/data": _NAME}, node=node))
    place.await_pods(f"reader-{node}")
    await_rest(place, f"reader-{node}", "/data/file")
    digest = place.run(f"reader-{node}", "sha256sum /data/file", limit_s=120).split()[0]
    place.delete("pod", f"reader-{node}")
    return digest


@pytest.mark.timeout(600)
def test_one_tenants_secrets_open_nothing_of_the_others(tenants: tuple[Namespace, Namespace], tmp_path: Path) -> None:
    attacker, victim = tenants
    digest = hashlib.sha256((attacker.cluster.nas_folder / attacker.name / "file").read_bytes()).hexdigest()
    first, second = attacker.cluster.nodes()[:2]
    assert _read(victim, first) == digest
    worker, master = _address(victim, "efc-worker"), _address(victim, "efc-master")
    own, theirs = _credentials(attacker, tmp_path, "node"), _credentials(victim, tmp_path, "node")
    assert (own / "block-key").read_bytes() != (theirs / "block-key").read_bytes()

    # The worker: with TLS and the other's certificates, of nodes and of its own worker, and without TLS.
    did = _run(victim, _CLIENT, *worker, theirs)
    assert did["items"], did
    assert did["stored"] == "STORED", did
    for credentials in (own, _credentials(attacker, tmp_path, "worker"), "plain"):
        did = _run(victim, _CLIENT, *worker, credentials)
        assert did.keys() == {"refused"}, did

    # The master, which would hand the key out.
    authority = theirs / "ca.crt"
    assert _run(victim, _NODE, *master, theirs, authority) == {"key": 32}
    did = _run(victim, _NODE, *master, own, authority)
    assert "key" not in did, did
    assert did["refused"], did
    assert _read(victim, second) == digest
