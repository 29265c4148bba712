"""The PKI of a Dataset: a CA of its own, and certificates for its master, workers, nodes, and the operator.

Keys are ECDSA on P-256. A certificate is valid for a year and renewed when a third of that is left; the CA is valid for
ten years. A new CA is in everybody's ``ca.crt`` for thirty days before it signs, and the former one stays there.
Masters and workers are authenticated by a fixed name, not by their addresses (:data:`csi.operator.names.MASTER_HOST`).
Time and randomness are arguments, except for the random number in each signature, which is OpenSSL's.
"""

import base64
import binascii
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from csi.base.errors import Code, DriverError
from csi.operator.names import MASTER_HOST, WORKER_HOST

#: Names of files in Secrets, as Kubernetes has them for TLS.
AUTHORITY, AUTHORITY_KEY, CERTIFICATE, PRIVATE_KEY = "ca.crt", "ca.key", "tls.crt", "tls.key"
#: Of the authority that follows, in the authority's Secret.
NEXT, NEXT_KEY = "next.crt", "next.key"
#: In the authority's Secret: random, and another one when an authority comes of which nobody has heard before.
LINE = "line"
#: The key under which blocks lie at workers, in the nodes' Secret: 64 hexadecimal digits.
BLOCK_KEY = "block-key"
OPERATOR, MASTER, WORKER, NODE = "operator", "master", "worker", "node"
CERTIFICATE_DAYS, AUTHORITY_DAYS = 365, 3650
#: A certificate begins so long before it is made: clocks differ.
CLOCKS_DIFFER = timedelta(minutes=10)
#: An authority that begins later than so long from now was made by a clock that went wrong: nobody believes it until
#: then, so there is another one.
_BEGINS_WITHIN = timedelta(hours=1)
#: For how long everybody knows an authority before it signs: whoever is mounted gets it through the master.
_KNOWN_BEFORE = timedelta(days=30)
_HOSTS = {MASTER: MASTER_HOST, WORKER: WORKER_HOST}
_BLOCK_KEY_BYTES = 32
_BLOCK_KEY_FORM = re.compile(rb"[0-9a-fA-F]{64}\s*")
_CURVE = ec.SECP256R1()
#: The order of P-256 (FIPS 186-4, D.1.2.3): a private key is a number from 1 to below it.
_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
#: Random bytes, so many: :func:`os.urandom`.
Random = Callable[[int], bytes]
#: The files of a Secret.
Files = Mapping[str, bytes]


@dataclass(frozen=True, kw_only=True)
class Identities:
    """The files of each Secret of a Dataset."""

    authority: Files
    node: Files
    master: Files
    worker: Files


def identities(present: Identities, *, now: datetime, random: Random) -> Identities:
    """Those that are wanted: what is present and good stays to the byte; what is missing or due is made anew."""
    authority = _authority(present.authority, now=now, random=random)
    issuer = _issuer(authority, now=now, random=random)
    return Identities(
        authority=authority,
        node={**issuer.identity(NODE, present.node), BLOCK_KEY: _block_key(present.node, random)},
        master=issuer.identity(MASTER, present.master),
        worker=issuer.identity(WORKER, present.worker),
    )


def operator_identity(authority: Files, present: Files, *, now: datetime, random: Random) -> Files:
    """The files by which the operator shows the Dataset's master who it is; they are in no Secret.

    FAILED_PRECONDITION if the authority's are not whole: :func:`identities` makes a new one.
    """
    return _issuer(authority, now=now, random=random).identity(OPERATOR, present)


def server_identity(authority: Files, name: str, host: str, *, now: datetime, random: Random) -> Files:
    """A new ``tls.crt`` and ``tls.key`` of a server that is known by the name ``host``."""
    certificate, key = _issuer(authority, now=now, random=random).issue(name, host)
    return {CERTIFICATE: _pem([certificate]), PRIVATE_KEY: _key_pem(key)}


def is_good_pair(present: Files, *, now: datetime) -> bool:
    """Whether ``tls.crt`` and ``tls.key`` belong together, and hold."""
    certificate, key = _certificate(present, CERTIFICATE), _key(present, PRIVATE_KEY)
    if certificate is None or key is None or not _same(certificate, key):
        return False
    return certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc


def nobody() -> Identities:
    """Those of a Dataset that has none yet."""
    return Identities(authority={}, node={}, master={}, worker={})


def files(secret: Mapping[str, object] | None) -> Files:
    """The files of a Secret as the API server has it; none if there is none, or what it has cannot be read."""
    data = (secret or {}).get("data") or {}
    found = {}
    for name, text in data.items() if isinstance(data, Mapping) else ():
        try:
            found[str(name)] = base64.b64decode(text, validate=True)
        except (binascii.Error, TypeError, ValueError):
            continue
    return found


def renewal_time(secret: Mapping[str, object] | None) -> datetime | None:
    """When the first certificate of a Secret is to be renewed; None if it has none that can be read."""
    found = files(secret)
    if (following := _certificate(found, NEXT)) is not None:
        return following.not_valid_before_utc + _KNOWN_BEFORE
    certificates = [_certificate(found, name) for name in (AUTHORITY, CERTIFICATE)]
    return min((renewal(one) for one in certificates if one is not None), default=None)


def new_block_key(random: Random) -> bytes:
    """The file with a new key for a Dataset's blocks."""
    return random(_BLOCK_KEY_BYTES).hex().encode()


def renewal(certificate: x509.Certificate) -> datetime:
    """When a certificate is to be renewed: when a third of its time is left."""
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return end - (end - begin) / 3


def block_key(found: Files) -> bytes:
    """The key of the blocks; empty if it is damaged: then another one is about to be made."""
    text = found.get(BLOCK_KEY, b"")
    return bytes.fromhex(text.decode()) if _BLOCK_KEY_FORM.fullmatch(text) else b""


def _block_key(present: Files, random: Random) -> bytes:
    key = present.get(BLOCK_KEY, b"")
    return key if _BLOCK_KEY_FORM.fullmatch(key) else new_block_key(random)


def server_authority(present: Files, *, now: datetime, random: Random) -> Files:
    """``ca.crt`` and ``ca.key`` of a server alone: the present ones as long as they do; the newest one is first."""
    certificate, key = _certificate(present, AUTHORITY), _key(present, AUTHORITY_KEY)
    whole = certificate is not None and key is not None and _same(certificate, key) and _has_begun(certificate, now)
    if whole and certificate is not None and now < renewal(certificate):
        return {name: present[name] for name in (AUTHORITY, AUTHORITY_KEY)}
    made, new_key = _new_authority(now=now, random=random)
    former = [certificate] if whole and certificate is not None and now < certificate.not_valid_after_utc else []
    return {AUTHORITY: _pem([made, *former]), AUTHORITY_KEY: _key_pem(new_key)}


def _authority(present: Files, *, now: datetime, random: Random) -> Files:
    """The authority's files; when it is due, with another that everybody gets to know before it signs."""
    certificate, key = _certificate(present, AUTHORITY), _key(present, AUTHORITY_KEY)
    holds = certificate is not None and _has_begun(certificate, now) and now < certificate.not_valid_after_utc
    if certificate is None or key is None or not _same(certificate, key) or not holds:
        made, new_key = _new_authority(now=now, random=random)
        return {AUTHORITY: _pem([made]), AUTHORITY_KEY: _key_pem(new_key), LINE: random(8).hex().encode()}
    line = {LINE: present.get(LINE) or random(8).hex().encode()}
    following, following_key = _certificate(present, NEXT), _key(present, NEXT_KEY)
    if now < renewal(certificate):
        return {AUTHORITY: present[AUTHORITY], AUTHORITY_KEY: present[AUTHORITY_KEY], **line}
    if (
        following is None
        or following_key is None
        or not (_same(following, following_key) and _has_begun(following, now))
    ):
        following, following_key = _new_authority(now=now, random=random)
    elif now >= following.not_valid_before_utc + _KNOWN_BEFORE:
        return {AUTHORITY: _pem([following, certificate]), AUTHORITY_KEY: present[NEXT_KEY], **line}
    return {
        AUTHORITY: _pem([certificate, following]),
        AUTHORITY_KEY: present[AUTHORITY_KEY],
        NEXT: _pem([following]),
        NEXT_KEY: _key_pem(following_key),
        **line,
    }


class _Issuer:
    """Signs with one authority; ``bundle`` is the file of all that hold."""

    def __init__(
        self,
        authority: x509.Certificate,
        key: ec.EllipticCurvePrivateKey,
        *,
        bundle: bytes,
        now: datetime,
        random: Random,
    ) -> None:
        self._authority, self._key, self._bundle, self._now, self._random = authority, key, bundle, now, random

    def identity(self, name: str, present: Files) -> Files:
        """``ca.crt``, ``tls.crt`` and ``tls.key`` of who is called ``name``: the present ones as long as they do."""
        if self._will_do(name, present):
            pair = {part: present[part] for part in (CERTIFICATE, PRIVATE_KEY)}
        else:
            certificate, key = self.issue(name, _HOSTS.get(name))
            pair = {CERTIFICATE: _pem([certificate]), PRIVATE_KEY: _key_pem(key)}
        return {AUTHORITY: self._bundle, **pair}

    def _will_do(self, name: str, present: Files) -> bool:
        certificate, key = _certificate(present, CERTIFICATE), _key(present, PRIVATE_KEY)
        if certificate is None or key is None or not _same(certificate, key):
            return False
        try:
            certificate.verify_directly_issued_by(self._authority)
        except (InvalidSignature, TypeError, UnsupportedAlgorithm, ValueError):
            return False
        in_time = certificate.not_valid_before_utc <= self._now < renewal(certificate)
        return in_time and certificate.subject == _name(name)

    def issue(self, name: str, host: str | None) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
        """A new certificate; ``host`` is the name by which clients know a server."""
        key = _new_key(self._random)
        end = min(self._now + timedelta(days=CERTIFICATE_DAYS), self._authority.not_valid_after_utc)
        builder = (
            _builder(_name(name), key, issuer=self._authority.subject, random=self._random)
            .not_valid_before(self._now - CLOCKS_DIFFER)
            .not_valid_after(end)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
                critical=False,
            )
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )
        if host is not None:
            builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        return builder.sign(self._key, hashes.SHA256()), key


def _issuer(authority: Files, *, now: datetime, random: Random) -> _Issuer:
    certificate, key = _certificate(authority, AUTHORITY), _key(authority, AUTHORITY_KEY)
    if certificate is None or key is None:
        raise DriverError(Code.FAILED_PRECONDITION, "the Dataset's authority has no certificate and key")
    return _Issuer(certificate, key, bundle=authority[AUTHORITY], now=now, random=random)


def _new_authority(*, now: datetime, random: Random) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    key = _new_key(random)
    # A name of its own, so that of two authorities in a file the right one is found by it.
    name = _name(f"efc-authority-{random(8).hex()}")
    builder = (
        _builder(name, key, issuer=name, random=random)
        .not_valid_before(now - CLOCKS_DIFFER)
        .not_valid_after(now + timedelta(days=AUTHORITY_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
    )
    return builder.sign(key, hashes.SHA256()), key


def _builder(
    name: x509.Name, key: ec.EllipticCurvePrivateKey, *, issuer: x509.Name, random: Random
) -> x509.CertificateBuilder:
    serial = int.from_bytes(random(16), "big") >> 1 | 1  # positive, and no more than 20 octets (RFC 5280, 4.1.2.2)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(serial)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _new_key(random: Random) -> ec.EllipticCurvePrivateKey:
    # 8 bytes more than the order has, so that no key is likelier than others (FIPS 186-4, B.4.1).
    return ec.derive_private_key(int.from_bytes(random(40), "big") % (_ORDER - 1) + 1, _CURVE)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _pem(certificates: Iterable[x509.Certificate]) -> bytes:
    return b"".join(one.public_bytes(serialization.Encoding.PEM) for one in certificates)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    form = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())


def certificates_of(pem: bytes) -> list[x509.Certificate]:
    """The certificates of a file; none if one of them cannot be read, or is of a kind that there is not here."""
    try:
        found = x509.load_pem_x509_certificates(pem)
        for one in found:
            # They are read no further than one looks: what is wrong with a key is only noticed where it is used.
            _ = one.public_key(), one.subject
    except (UnsupportedAlgorithm, ValueError, x509.InvalidVersion):
        return []
    return found


def _certificate(files: Files, name: str) -> x509.Certificate | None:
    """The first certificate of a file; None if it cannot be read."""
    return next(iter(certificates_of(files.get(name, b""))), None)


def _has_begun(certificate: x509.Certificate, now: datetime) -> bool:
    return certificate.not_valid_before_utc <= now + _BEGINS_WITHIN


def _key(files: Files, name: str) -> ec.EllipticCurvePrivateKey | None:
    try:
        key = serialization.load_pem_private_key(files[name], password=None)
    except (KeyError, TypeError, UnsupportedAlgorithm, ValueError):
        return None
    return key if isinstance(key, ec.EllipticCurvePrivateKey) else None


def _same(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> bool:
    return certificate.public_key() == key.public_key()
