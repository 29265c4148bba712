"""Makes and renews the webhook's CA and certificate, by which the API server authenticates the webhook.

Both are in a Secret, of which the webhook's pods mount the certificate and its key; the API server has the CA from the
MutatingWebhookConfiguration (``caBundle``). The leading operator updates the two in an order in which the API server
trusts every pod at any time: a certificate is issued only by a CA that was seen in the configuration some seconds
before, and the former CA stays there until every pod must have the new certificate.

:func:`step` decides; :class:`Certificates` reads, writes and waits. The configuration owns the Secret, which is deleted
with it.
"""

import asyncio
import base64
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding

from csi.base.errors import Code, DriverError
from csi.operator import pki
from csi.operator.cluster import Json
from csi.operator.datasets import paths

_LOGGER = logging.getLogger(__name__)
#: What the Secret, the Service and the configuration are called.
NAME = "efc-webhook"
#: Between two looks.
LOOK_SECONDS = 60.0
#: After a write: in that time API servers have seen it.
SETTLED_SECONDS = 10.0
#: After that long, every pod has the certificate: kubelet brings changed Secrets within two minutes.
SERVED_AFTER = timedelta(hours=1)
_KIND = "MutatingWebhookConfiguration"
_CONFIGURATION = f"/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/{NAME}"


@dataclass(frozen=True, kw_only=True)
class Step:
    """The files that the Secret should have, and the authorities that the configuration should name (PEM)."""

    files: pki.Files
    bundle: bytes


def step(present: pki.Files, bundle: bytes, *, host: str, now: datetime, random: pki.Random) -> Step:
    """What comes next, from the Secret's files and the configuration's authorities as they are.

    ``host`` is the name by which the API server knows the webhook. Repeated after each write until nothing changes, it
    ends with a certificate and the one authority that has made it.
    """
    authority = pki.server_authority(present, now=now, random=random)
    signer = pki.certificates_of(authority[pki.AUTHORITY])[0]
    known = pki.certificates_of(bundle)
    pair = {name: present[name] for name in (pki.CERTIFICATE, pki.PRIVATE_KEY) if name in present}
    if not pki.is_good_pair(pair, now=now):
        pair = {}
    serving = pki.certificates_of(pair[pki.CERTIFICATE])[0] if pair else None
    is_first = not known and serving is None
    is_wanted = serving is None or not _is_of(serving, signer) or _is_due(serving, host, now)
    if is_wanted and (is_first or signer in known):
        pair = dict(pki.server_identity(authority, NAME, host, now=now, random=random))
        serving = pki.certificates_of(pair[pki.CERTIFICATE])[0]
    held = [signer]
    if serving is None or not _is_of(serving, signer) or now < _made(serving) + SERVED_AFTER:
        others = (*pki.certificates_of(authority[pki.AUTHORITY]), *known)
        held += [one for one in others if one != signer and now < one.not_valid_after_utc]
    wanted = b"".join(one.public_bytes(Encoding.PEM) for one in dict.fromkeys(held))
    return Step(files={**authority, pki.AUTHORITY: wanted, **pair}, bundle=wanted)


def _is_of(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except (InvalidSignature, TypeError, UnsupportedAlgorithm, ValueError):
        return False
    return True


def _is_due(certificate: x509.Certificate, host: str, now: datetime) -> bool:
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return now >= pki.renewal(certificate) or names.get_values_for_type(x509.DNSName) != [host]


def _made(certificate: x509.Certificate) -> datetime:
    return certificate.not_valid_before_utc + pki.CLOCKS_DIFFER


class Objects(Protocol):
    """The part of :class:`csi.operator.cluster.Cluster` that is needed here."""

    async def get(self, path: str) -> Json | None:
        """The object at ``path``, or None."""

    async def create(self, path: str, new: Json) -> Json:
        """Makes an object; ALREADY_EXISTS if its name is taken."""

    async def merge(self, path: str, changes: Json) -> Json:
        """Changes an object; ABORTED if it is not of the resourceVersion in ``changes``."""

    async def patch(self, path: str, operations: Sequence[Json]) -> bool:
        """Changes an object by a JSON patch; False if it is not as tested."""


class Certificates:
    """Keeps Secret and configuration in step, while this process leads."""

    def __init__(self, objects: Objects, *, namespace: str) -> None:
        self._objects, self._namespace = objects, namespace
        self._said = ""

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            delay = LOOK_SECONDS
            try:
                if await self.look(datetime.now(UTC)):
                    delay = SETTLED_SECONDS
                self._said = ""
            except DriverError as error:
                delay = SETTLED_SECONDS
                if error.message != self._said:  # it may be so for hours
                    self._said = error.message
                    _LOGGER.warning("certificate of the webhook: %s", error.message)
            await asyncio.sleep(delay)

    async def look(self, now: datetime) -> bool:
        """One look, and what follows from it; whether anything was written."""
        configuration = await self._objects.get(_CONFIGURATION)
        if configuration is None:
            return False
        secret = await self._objects.get(paths.SECRET.path((self._namespace, NAME)))
        if secret is not None and not _is_ours(secret):
            raise DriverError(
                Code.FAILED_PRECONDITION,
                f"the Secret {self._namespace}/{NAME} is somebody else's: delete it to have it made again",
            )
        bundles = {_bundle(webhook) for webhook in configuration.get("webhooks") or ()}
        # An authority that one of them does not have is not known yet.
        common = min(bundles, key=len, default=b"")
        present = pki.files(secret)
        wanted = step(present, common, host=f"{NAME}.{self._namespace}.svc", now=now, random=os.urandom)
        wrote_secret = await self._write_secret(secret, wanted.files, owner=configuration)
        wrote_bundle = bundles not in (set(), {wanted.bundle}) and await self._write_bundle(
            configuration, wanted.bundle
        )
        return wrote_secret or wrote_bundle

    async def _write_secret(self, secret: Json | None, files: pki.Files, *, owner: Json) -> bool:
        metadata: dict[str, Any] = {"ownerReferences": [_owner(owner)]}
        data = {name: base64.b64encode(content).decode() for name, content in files.items()}
        collection = paths.SECRET.collection(self._namespace)
        if secret is None:
            metadata |= {"name": NAME, "namespace": self._namespace}
            new = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": "Opaque", "data": data}
            await self._objects.create(collection, new)
        elif (secret.get("data") or {}) == data and secret["metadata"].get("ownerReferences") == [_owner(owner)]:
            return False
        else:
            metadata["resourceVersion"] = secret["metadata"]["resourceVersion"]
            gone = dict.fromkeys((secret.get("data") or {}).keys() - data.keys())
            await self._objects.merge(f"{collection}/{NAME}", {"metadata": metadata, "data": {**data, **gone}})
        _LOGGER.info("wrote the certificate of the webhook into the Secret %s/%s", self._namespace, NAME)
        return True

    async def _write_bundle(self, configuration: Json, bundle: bytes) -> bool:
        """Into each webhook; not if they are others by now."""
        encoded = base64.b64encode(bundle).decode()
        operations: list[Json] = []
        for number, webhook in enumerate(configuration["webhooks"]):
            path = f"/webhooks/{number}"
            operations.append({"op": "test", "path": f"{path}/name", "value": webhook["name"]})
            operations.append({"op": "add", "path": f"{path}/clientConfig/caBundle", "value": encoded})
        return await self._objects.patch(_CONFIGURATION, operations)


def _bundle(webhook: Json) -> bytes:
    try:
        return base64.b64decode(webhook["clientConfig"].get("caBundle") or "", validate=True)
    except ValueError:
        return b""


def _is_ours(secret: Json) -> bool:
    owners = secret["metadata"].get("ownerReferences") or ()
    return any((owner["kind"], owner["name"]) == (_KIND, NAME) for owner in owners)


def _owner(configuration: Json) -> dict[str, str]:
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": _KIND,
        "name": NAME,
        "uid": configuration["metadata"]["uid"],
    }
