"""The webhook's certificate over years, and what the API server makes of it at each moment."""

from __future__ import annotations

import base64
import copy
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from csi.base.errors import Code, DriverError
from csi.operator import pki
from csi.operator.webhook.certificates import NAME, SERVED_AFTER, SETTLED_SECONDS, Certificates, step

HOST = "efc-webhook.efc-system.svc"
BEGIN = datetime(2027, 1, 1, tzinfo=UTC)
SETTLED = timedelta(seconds=SETTLED_SECONDS)


def is_trusted(certificate: bytes, bundle: bytes, now: datetime) -> bool:
    """Whether the API server takes the server's certificate."""
    store = Store(x509.load_pem_x509_certificates(bundle))
    verifier = PolicyBuilder().store(store).time(now).build_server_verifier(x509.DNSName(HOST))
    try:
        verifier.verify(x509.load_pem_x509_certificate(certificate), [])
    except VerificationError:
        return False
    return True


@dataclass(kw_only=True)
class World:
    """Secret and configuration; the pods have the Secret's certificate a little later, the API server its bundle."""

    now: datetime = BEGIN
    files: pki.Files = field(default_factory=dict)
    bundle: bytes = b""
    served: bytes = b""

    def look(self) -> bool:
        """One look of the operator's; whether it changed anything. The Secret is written first."""
        wanted = step(self.files, self.bundle, host=HOST, now=self.now, random=os.urandom)
        changed = (dict(wanted.files), wanted.bundle) != (dict(self.files), self.bundle)
        self.files = wanted.files
        self.check()  # pods may have the new one before the API server has the bundle
        self.bundle = wanted.bundle
        self.check()
        return changed

    def check(self) -> None:
        """Whatever the pods serve, what they had or what the Secret has, is trusted by the bundle."""
        if self.bundle:
            for certificate in filter(None, (self.served, self.files.get(pki.CERTIFICATE, b""))):
                assert is_trusted(certificate, self.bundle, self.now)

    def settle(self) -> int:
        """Looks until nothing changes; how often."""
        for number in range(10):
            if not self.look():
                return number
            self.now += SETTLED
        raise AssertionError("it never settles")

    def serve(self) -> None:
        """The pods get the certificate, by kubelet."""
        self.served = self.files.get(pki.CERTIFICATE, self.served)
        self.check()


def authorities(world: World) -> int:
    return len(x509.load_pem_x509_certificates(world.bundle))


def test_the_first_certificate_is_there_at_once() -> None:
    world = World()
    world.look()
    world.serve()
    assert is_trusted(world.served, world.bundle, world.now)
    assert set(world.files) == {"ca.crt", "ca.key", "tls.crt", "tls.key"}
    assert not world.look()
    assert authorities(world) == 1


def test_over_decades_every_request_is_answered() -> None:
    world, certificates, bundles = World(), set(), set()
    world.settle()
    while world.now < BEGIN + timedelta(days=25 * 365):
        world.serve()
        certificates.add(world.served)
        bundles.add(world.bundle)
        world.now += timedelta(days=60)
        world.check()
        world.settle()
        world.serve()
        world.now += SERVED_AFTER
        world.settle()
        world.serve()
        assert authorities(world) == 1, "the former one goes"
    assert len(certificates) > 30
    assert len(bundles) > 3


def test_an_authority_is_replaced_while_its_certificate_serves() -> None:
    world = World()
    world.settle()
    world.serve()
    world.now += timedelta(days=200)
    # A certificate that holds on, of an authority that is due.
    world.files = {**world.files, **_aged(world)}
    world.served = world.files[pki.CERTIFICATE]
    world.bundle = world.files[pki.AUTHORITY]
    before = world.served
    assert world.look()
    assert world.files[pki.CERTIFICATE] == before, "the API server does not know the new authority yet"
    assert authorities(world) == 2
    world.now += SETTLED
    assert world.look()
    assert world.files[pki.CERTIFICATE] != before
    assert authorities(world) == 2, "pods may have the former certificate"
    world.now += SERVED_AFTER
    world.serve()
    world.settle()
    assert authorities(world) == 1


def _aged(world: World) -> pki.Files:
    """An authority in its last third, and a certificate that it has made just now."""
    old = world.now - timedelta(days=pki.AUTHORITY_DAYS * 0.7)
    authority = pki.server_authority({}, now=old, random=os.urandom)
    return {**authority, **pki.server_identity(authority, NAME, HOST, now=world.now, random=os.urandom)}


@pytest.mark.parametrize("lost", ["all", "authority", "key", "certificate", "garbage"])
def test_what_is_lost_comes_anew_without_a_refused_request(lost: str) -> None:
    world = World()
    world.settle()
    world.serve()
    world.now += timedelta(days=3)
    without = {"all": set(world.files), "authority": {"ca.crt"}, "key": {"ca.key"}, "certificate": {"tls.crt"}}
    if lost == "garbage":
        world.files = dict.fromkeys(world.files, b"x")
    else:
        world.files = {name: content for name, content in world.files.items() if name not in without[lost]}
    before = world.served
    world.settle()
    world.serve()
    assert world.served == before or is_trusted(world.served, world.bundle, world.now)
    assert pki.is_good_pair(world.files, now=world.now)
    world.now += SERVED_AFTER
    world.settle()
    assert authorities(world) == 1


def test_another_namespace_is_another_name() -> None:
    first = step({}, b"", host="efc-webhook.other.svc", now=BEGIN, random=os.urandom)
    second = step(first.files, first.bundle, host=HOST, now=BEGIN, random=os.urandom)
    assert not is_trusted(first.files[pki.CERTIFICATE], first.bundle, BEGIN)
    assert is_trusted(second.files[pki.CERTIFICATE], second.bundle, BEGIN)


def test_an_outage_longer_than_the_certificate_ends_by_itself() -> None:
    world = World()
    world.settle()
    world.now += timedelta(days=pki.AUTHORITY_DAYS + 1)
    world.served = b""
    world.files, world.bundle = dict(world.files), world.bundle
    for _ in range(5):
        wanted = step(world.files, world.bundle, host=HOST, now=world.now, random=os.urandom)
        world.files, world.bundle = wanted.files, wanted.bundle
    assert is_trusted(world.files[pki.CERTIFICATE], world.bundle, world.now)


# ------------------------------------------------------------ at the API server

_SECRET = f"/api/v1/namespaces/efc-system/secrets/{NAME}"
_CONFIGURATION = f"/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/{NAME}"


class ApiServer:
    """Objects by their paths; writes are counted."""

    def __init__(self, *webhooks: str) -> None:
        self.objects: dict[str, dict[str, Any]] = {
            _CONFIGURATION: {
                "metadata": {"uid": "u1", "name": NAME},
                "webhooks": [{"name": name, "clientConfig": {}} for name in webhooks],
            }
        }
        self.writes = 0

    async def get(self, path: str) -> Mapping[str, Any] | None:
        return copy.deepcopy(self.objects.get(path))

    async def create(self, path: str, new: Mapping[str, Any]) -> Mapping[str, Any]:
        name = f"{path}/{new['metadata']['name']}"
        assert name not in self.objects
        self.writes += 1
        self.objects[name] = {**new, "metadata": {**new["metadata"], "resourceVersion": "1"}}
        return new

    async def merge(self, path: str, changes: Mapping[str, Any]) -> Mapping[str, Any]:
        found = self.objects[path]
        if changes["metadata"]["resourceVersion"] != found["metadata"]["resourceVersion"]:
            raise DriverError(Code.ABORTED, "changed meanwhile")
        self.writes += 1
        data = {name: value for name, value in {**found["data"], **changes["data"]}.items() if value is not None}
        version = str(int(found["metadata"]["resourceVersion"]) + 1)
        metadata = {**found["metadata"], **changes["metadata"], "resourceVersion": version}
        self.objects[path] = {**found, "metadata": metadata, "data": data}
        return found

    async def patch(self, path: str, operations: Sequence[Mapping[str, Any]]) -> bool:
        webhooks = self.objects[path]["webhooks"]
        self.writes += 1
        for operation in operations:
            _, _, number, *rest = operation["path"].split("/")
            if operation["op"] == "test":
                assert webhooks[int(number)][rest[0]] == operation["value"]
            else:
                webhooks[int(number)][rest[0]][rest[1]] = operation["value"]
        return True

    def bundles(self) -> set[str]:
        return {webhook["clientConfig"].get("caBundle", "") for webhook in self.objects[_CONFIGURATION]["webhooks"]}


async def settled(server: ApiServer, now: datetime = BEGIN) -> None:
    certificates = Certificates(server, namespace="efc-system")
    for _ in range(5):
        await certificates.look(now)


async def test_secret_and_configuration_are_written_once() -> None:
    server = ApiServer("a", "b")
    await settled(server)
    assert server.writes == 2
    secret = server.objects[_SECRET]
    assert secret["metadata"]["ownerReferences"][0]["uid"] == "u1", "it goes with the configuration"
    (bundle,) = server.bundles()
    certificate = base64.b64decode(secret["data"]["tls.crt"])
    assert is_trusted(certificate, base64.b64decode(bundle), BEGIN)


async def test_a_bundle_that_somebody_takes_away_comes_back() -> None:
    server = ApiServer("a", "b")
    await settled(server)
    before = server.bundles()
    server.objects[_CONFIGURATION]["webhooks"][1]["clientConfig"] = {}
    await settled(server)
    assert server.bundles() == before


async def test_without_a_configuration_nothing_is_made() -> None:
    server = ApiServer()
    server.objects.clear()
    await settled(server)
    assert not server.writes


async def test_somebody_elses_secret_is_left_alone() -> None:
    server = ApiServer("a")
    server.objects[_SECRET] = {"metadata": {"name": NAME, "resourceVersion": "5"}, "data": {"x": "eA=="}}
    with pytest.raises(DriverError, match="somebody else's: delete it"):
        await settled(server)
    assert not server.writes


async def test_a_new_configuration_takes_the_secret_over() -> None:
    server = ApiServer("a")
    await settled(server)
    server.objects[_CONFIGURATION]["metadata"]["uid"] = "u2"
    server.objects[_CONFIGURATION]["webhooks"][0]["clientConfig"] = {}
    certificate = server.objects[_SECRET]["data"]["tls.crt"]
    await settled(server)
    assert server.objects[_SECRET]["metadata"]["ownerReferences"][0]["uid"] == "u2"
    assert server.objects[_SECRET]["data"]["tls.crt"] == certificate
