"""A Dataset's authority and certificates: what is kept, what is made anew, and that TLS takes them."""

import base64
import dataclasses
import datetime
import os
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID

from csi.base.errors import DriverError
from csi.operator import pki
from csi.operator.pki import Identities
from tests.unit.operator.samples import NOW, pseudo_random

_DAY = datetime.timedelta(days=1)


def _made(present: Identities | None = None, *, now: datetime.datetime = NOW, seed: int = 1) -> Identities:
    return pki.identities(present or pki.nobody(), now=now, random=pseudo_random(seed))


def _certificates(files: pki.Files, name: str = pki.CERTIFICATE) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates(files[name])


def _renewal_due(secret: Any, now: datetime.datetime) -> bool:
    """Whether a Secret is renewed at that time; one without a certificate always is."""
    due = pki.renewal_time(secret)
    return due is None or due <= now


def _secret(files: pki.Files) -> dict[str, Any]:
    return {"data": {name: base64.b64encode(content).decode() for name, content in files.items()}}


def test_who_is_who() -> None:
    made = _made()
    found = {}
    for files in (made.master, made.worker, made.node):
        (certificate,) = _certificates(files)
        names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        try:
            extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
            hosts = extension.value.get_values_for_type(x509.DNSName)
        except x509.ExtensionNotFound:
            hosts = []
        found[names[0].value] = hosts
        assert certificate.not_valid_after_utc - NOW == 365 * _DAY
        assert files[pki.AUTHORITY] == made.authority[pki.AUTHORITY]
    assert found == {"master": ["master.efc"], "worker": ["worker.efc"], "node": []}
    (authority,) = _certificates(made.authority, pki.AUTHORITY)
    assert authority.not_valid_after_utc - NOW == 3650 * _DAY
    assert len(bytes.fromhex(made.node[pki.BLOCK_KEY].decode())) == 32


def test_two_datasets_have_nothing_in_common() -> None:
    one, other = _made(seed=1), _made(seed=2)
    for name in ("authority", "node", "master", "worker"):
        ours, theirs = getattr(one, name), getattr(other, name)
        assert all(ours[file] != theirs[file] for file in ours)


def test_what_is_good_stays_to_the_byte() -> None:
    made = _made()
    assert _made(made, now=NOW + 243 * _DAY, seed=2) == made


def test_a_certificate_is_renewed_when_a_third_of_its_time_is_left() -> None:
    made = _made()
    later = NOW + 244 * _DAY
    renewed = _made(made, now=later, seed=2)
    assert renewed.authority == made.authority
    for name in ("master", "worker", "node"):
        before, after = getattr(made, name), getattr(renewed, name)
        assert before[pki.PRIVATE_KEY] != after[pki.PRIVATE_KEY]
        assert _certificates(after)[0].not_valid_after_utc - later == 365 * _DAY
    assert renewed.node[pki.BLOCK_KEY] == made.node[pki.BLOCK_KEY], "what was sealed stays readable"


def _issued_by(files: pki.Files, authority: x509.Certificate) -> bool:
    return _certificates(files)[0].issuer == authority.subject


def test_another_authority_is_known_to_everybody_before_it_signs() -> None:
    made = _made()
    (first,) = _certificates(made.authority, pki.AUTHORITY)
    due = NOW + 2434 * _DAY
    announced = _made(made, now=due, seed=2)
    assert _issued_by(announced.worker, first)
    assert announced.worker[pki.AUTHORITY] == announced.node[pki.AUTHORITY]
    known, second = _certificates(announced.node, pki.AUTHORITY)
    assert known == first
    assert _made(announced, now=due + 29 * _DAY, seed=3) == announced
    assert not _renewal_due(_secret(announced.authority), due + 29 * _DAY)
    assert _renewal_due(_secret(announced.authority), due + 31 * _DAY)
    signing = _made(announced, now=due + 31 * _DAY, seed=4)
    assert _certificates(signing.authority, pki.AUTHORITY) == [second, first]
    assert all(_issued_by(files, second) for files in (signing.worker, signing.master, signing.node))
    assert pki.NEXT_KEY not in signing.authority
    assert made.authority[pki.LINE] == announced.authority[pki.LINE] == signing.authority[pki.LINE]
    assert _made(signing, now=due + 32 * _DAY, seed=5) == signing


def test_no_certificate_outlives_its_authority() -> None:
    old = pki.identities(pki.nobody(), now=NOW, random=pseudo_random(1)).authority
    late = NOW + 3500 * _DAY  # nobody had looked for long
    made = _made(dataclasses.replace(pki.nobody(), authority=old), now=late, seed=2)
    end = _certificates(old, pki.AUTHORITY)[0].not_valid_after_utc
    assert all(_certificates(files)[0].not_valid_after_utc <= end for files in (made.master, made.worker, made.node))


def _without(files: pki.Files, name: str) -> pki.Files:
    return {file: content for file, content in files.items() if file != name}


@pytest.mark.parametrize("file", [pki.CERTIFICATE, pki.PRIVATE_KEY])
def test_what_is_missing_or_spoilt_is_made_anew_and_nothing_else(file: str) -> None:
    made, other = _made(), _made(seed=5)
    foreign = {**made.worker, file: other.worker[file]}
    for spoilt in ({}, _without(made.worker, file), {**made.worker, file: b"garbage"}, foreign, made.master):
        mended = _made(dataclasses.replace(made, worker=spoilt), seed=2)
        assert dataclasses.replace(mended, worker={}) == dataclasses.replace(made, worker={})
        _certificates(mended.worker)[0].verify_directly_issued_by(_certificates(made.authority, pki.AUTHORITY)[0])
        assert mended.worker != spoilt


@pytest.mark.parametrize("file", [pki.AUTHORITY, pki.AUTHORITY_KEY])
def test_without_its_authority_everybody_gets_another(file: str) -> None:
    made = _made()
    for spoilt in ({}, _without(made.authority, file), {**made.authority, file: b"garbage"}):
        mended = _made(dataclasses.replace(made, authority=spoilt), seed=2)
        (authority,) = _certificates(mended.authority, pki.AUTHORITY)
        assert mended.authority[pki.LINE] != made.authority[pki.LINE], "so that pods start anew"
        for files in (mended.master, mended.worker, mended.node):
            _certificates(files)[0].verify_directly_issued_by(authority)
        assert mended.node[pki.BLOCK_KEY] == made.node[pki.BLOCK_KEY]


def test_an_authority_of_a_clock_that_went_ahead_is_replaced() -> None:
    """Nobody believes it until it has begun: the Dataset would be without master and workers for so long."""
    ahead = _made(now=NOW + 200 * _DAY)
    mended = _made(ahead, seed=2)
    (authority,) = _certificates(mended.authority, pki.AUTHORITY)
    assert authority.not_valid_before_utc <= NOW
    assert mended.authority[pki.LINE] != ahead.authority[pki.LINE]
    soon = _made(now=NOW + datetime.timedelta(minutes=50))
    assert _made(soon, seed=2).authority == soon.authority, "clocks differ a little"


def test_an_authority_to_come_of_a_clock_that_went_ahead_is_replaced() -> None:
    made, due = _made(), NOW + 2434 * _DAY
    announced = _made(made, now=due + 400 * _DAY, seed=2)
    mended = _made(announced, now=due, seed=3)
    following = _certificates(mended.authority, pki.NEXT)[0]
    assert following.not_valid_before_utc <= due


def test_a_servers_authority_of_a_clock_that_went_ahead_is_replaced() -> None:
    ahead = pki.server_authority({}, now=NOW + 200 * _DAY, random=pseudo_random(1))
    mended = pki.server_authority(ahead, now=NOW, random=pseudo_random(2))
    (authority,) = _certificates(mended, pki.AUTHORITY)
    assert authority.not_valid_before_utc <= NOW


def _strange(pem: bytes, what: str) -> bytes:
    """A certificate or key of which one part is one that there is not."""
    label = pem.split(b"-----")[1].removeprefix(b"BEGIN ")
    der = base64.b64decode(b"".join(pem.splitlines()[1:-1]))
    curve, algorithm = bytes.fromhex("06082a8648ce3d030107"), bytes.fromhex("06072a8648ce3d0201")
    if what == "curve":
        der = der.replace(curve, curve[:-1] + b"\x77")
    elif what == "algorithm":
        der = der.replace(algorithm, algorithm[:-1] + b"\x77")
    elif what == "version":
        der = der.replace(bytes.fromhex("a003020102"), bytes.fromhex("a003020109"), 1)
    else:
        point = der.index(bytes.fromhex("03420004")) + 6
        der = der[:point] + bytes(40) + der[point + 40 :]
    return b"-----BEGIN %b-----\n%b-----END %b-----\n" % (label, base64.encodebytes(der), label)


@pytest.mark.parametrize("what", ["curve", "algorithm", "version", "point"])
@pytest.mark.parametrize(("part", "file"), [("authority", pki.AUTHORITY), ("node", pki.CERTIFICATE)])
def test_a_certificate_of_a_kind_that_there_is_not_is_made_anew(part: str, file: str, what: str) -> None:
    """Whoever may write Secrets in a namespace can put one there."""
    made = _made()
    files = getattr(made, part)
    spoilt = {**files, file: _strange(files[file], what)}
    assert spoilt != files
    pki.renewal_time(_secret(spoilt))
    assert not pki.is_good_pair(spoilt, now=NOW)
    mended = _made(dataclasses.replace(made, **{part: spoilt}), seed=2)
    (authority,) = _certificates(mended.authority, pki.AUTHORITY)
    for one in (mended.master, mended.worker, mended.node):
        _certificates(one)[0].verify_directly_issued_by(authority)


@pytest.mark.parametrize("what", ["curve", "algorithm"])
def test_a_key_of_a_kind_that_there_is_not_is_made_anew(what: str) -> None:
    made = _made()
    spoilt = {**made.node, pki.PRIVATE_KEY: _strange(made.node[pki.PRIVATE_KEY], what)}
    mended = _made(dataclasses.replace(made, node=spoilt), seed=2)
    assert pki.is_good_pair(mended.node, now=NOW)


@pytest.mark.parametrize("key", [b"", b"0" * 63, b"g" * 64])
def test_a_block_key_that_is_none_is_made_anew(key: bytes) -> None:
    made = _made()
    mended = _made(dataclasses.replace(made, node={**made.node, pki.BLOCK_KEY: key}), seed=2)
    assert len(bytes.fromhex(mended.node[pki.BLOCK_KEY].decode())) == 32


def test_when_a_secret_is_due() -> None:
    secret = _secret(_made().worker)
    assert not _renewal_due(secret, NOW + 243 * _DAY)
    assert _renewal_due(secret, NOW + 244 * _DAY)
    time_of_it = pki.renewal_time(secret)
    assert time_of_it is not None
    assert NOW + 243 * _DAY < time_of_it < NOW + 244 * _DAY
    assert _renewal_due(None, NOW)
    assert _renewal_due({"data": {pki.CERTIFICATE: "?"}}, NOW)


def test_a_secret_that_is_no_base64_has_no_files() -> None:
    assert pki.files({"data": {"a": "YQ==", "b": "?", "c": None}}) == {"a": b"a"}
    assert pki.files({"data": None}) == pki.files(None) == {}


def test_the_operator_needs_a_whole_authority() -> None:
    with pytest.raises(DriverError, match="no certificate and key"):
        pki.operator_identity({}, {}, now=NOW, random=os.urandom)


def _now_made() -> Identities:
    now = datetime.datetime.now(datetime.UTC)
    return pki.identities(pki.nobody(), now=now, random=os.urandom)


@pytest.fixture
def master() -> Iterator[tuple[int, Identities]]:
    """A gRPC server with the master's certificate, which answers with its caller's common name; its port."""
    made = _now_made()

    def answer(_: bytes, context: Any) -> bytes:
        return b",".join(context.auth_context()["x509_common_name"])

    server = grpc.server(futures.ThreadPoolExecutor(2))
    method: Any = grpc.unary_unary_rpc_method_handler(answer)
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("a.Service", {"Who": method})])
    credentials = grpc.ssl_server_credentials(
        [(made.master[pki.PRIVATE_KEY], made.master[pki.CERTIFICATE])],
        root_certificates=made.master[pki.AUTHORITY],
        require_client_auth=True,
    )
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    yield port, made
    server.stop(None).wait()


def _who(port: int, files: pki.Files, *, host: str = "master.efc") -> str:
    credentials = grpc.ssl_channel_credentials(files[pki.AUTHORITY], files[pki.PRIVATE_KEY], files[pki.CERTIFICATE])
    options = [("grpc.ssl_target_name_override", host)]
    with grpc.secure_channel(f"127.0.0.1:{port}", credentials, options) as channel:
        who: Any = channel.unary_unary("/a.Service/Who")
        return bytes(who(b"", timeout=10)).decode()


def test_node_and_operator_reach_the_master_by_its_name(master: tuple[int, Identities]) -> None:
    port, made = master
    operator = pki.operator_identity(made.authority, {}, now=datetime.datetime.now(datetime.UTC), random=os.urandom)
    assert _who(port, made.node) == "node"
    assert _who(port, operator) == "operator"


def test_strangers_and_false_masters_are_refused(master: tuple[int, Identities]) -> None:
    port, made = master
    stranger = {**_now_made().node, pki.AUTHORITY: made.authority[pki.AUTHORITY]}
    with pytest.raises(grpc.RpcError):
        _who(port, stranger)
    with pytest.raises(grpc.RpcError):
        _who(port, made.node, host="worker.efc")


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[tuple[int, Identities, Path]]:
    """A memcached with the worker's certificate: its port, all certificates, and the folder of its files."""
    made = _now_made()
    for name, content in made.worker.items():
        (tmp_path / name).write_bytes(content)
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        port = int(trial.getsockname()[1])
    settings = f"ssl_chain_cert={tmp_path}/tls.crt,ssl_key={tmp_path}/tls.key,ssl_ca_cert={tmp_path}/ca.crt"
    command = ["memcached", "-u", "root", "-l", f"127.0.0.1:{port}", "-F", "-X", "-Z"]
    process = subprocess.Popen([*command, "-o", f"{settings},ssl_verify_mode=2,ssl_min_version=3"])
    try:
        yield port, made, tmp_path
    finally:
        process.terminate()
        process.wait(30)


def _ask(port: int, files: pki.Files, command: bytes, folder: Path) -> tuple[bytes, bytes]:
    """What the worker answers, and its certificate."""
    own = folder / "own"
    own.mkdir(exist_ok=True)
    for name, content in files.items():
        (own / name).write_bytes(content)
    context = ssl.create_default_context(cafile=own / pki.AUTHORITY)
    context.load_cert_chain(own / pki.CERTIFICATE, own / pki.PRIVATE_KEY)
    deadline = time.monotonic() + 30
    while True:
        try:
            plain = socket.create_connection(("127.0.0.1", port), timeout=30)
            break
        except ConnectionRefusedError:
            assert time.monotonic() < deadline
            time.sleep(0.02)
    with plain, context.wrap_socket(plain, server_hostname="worker.efc") as sealed:
        sealed.sendall(command + b"\r\n")
        return sealed.recv(4096), sealed.getpeercert(binary_form=True) or b""


def test_memcached_takes_them_and_renewed_ones_without_a_restart(worker: tuple[int, Identities, Path]) -> None:
    port, made, folder = worker
    answer, before = _ask(port, made.node, b"mn", folder)
    assert answer == b"MN\r\n"
    now = datetime.datetime.now(datetime.UTC)
    renewed = pki.identities(dataclasses.replace(made, worker={}), now=now, random=os.urandom)
    for name, content in renewed.worker.items():
        (folder / name).write_bytes(content)
    assert _ask(port, made.node, b"refresh_certs", folder)[0] == b"OK\r\n"
    answer, after = _ask(port, made.node, b"mn", folder)
    assert answer == b"MN\r\n"
    assert before != after
    newcomer = _now_made()
    both = made.node[pki.AUTHORITY] + newcomer.node[pki.AUTHORITY]
    (folder / pki.AUTHORITY).write_bytes(both)
    assert _ask(port, made.node, b"refresh_certs", folder)[0] == b"OK\r\n"
    assert _ask(port, {**newcomer.node, pki.AUTHORITY: both}, b"mn", folder)[0] == b"MN\r\n", "authorities too"


def test_memcached_refuses_strangers(worker: tuple[int, Identities, Path]) -> None:
    port, made, folder = worker
    stranger = {**_now_made().node, pki.AUTHORITY: made.authority[pki.AUTHORITY]}
    assert _ask(port, made.node, b"mn", folder)[0] == b"MN\r\n"
    try:
        answer = _ask(port, stranger, b"mn", folder)[0]
    except (ssl.SSLError, ConnectionError):
        answer = b""
    assert answer == b""
