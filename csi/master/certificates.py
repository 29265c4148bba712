"""The master's certificate, key and CA, reloaded when their files change (a mounted Secret is renewed)."""

import logging
import ssl
from dataclasses import dataclass
from pathlib import Path

import grpc

from csi.base.errors import Code, DriverError

_LOGGER = logging.getLogger(__name__)
#: The name in every worker's certificate: addresses of pods change.
WORKERS_NAME = "worker.efc"
_FILES = ("ca.crt", "tls.crt", "tls.key")


@dataclass(frozen=True, kw_only=True, repr=False)
class _Contents:
    authority: bytes
    certificate: bytes
    private_key: bytes


class Certificates:
    """The files ``ca.crt``, ``tls.crt`` and ``tls.key`` in a folder."""

    def __init__(self, folder: Path) -> None:
        """Raises FAILED_PRECONDITION if they cannot be used."""
        self._folder = folder
        self._client: tuple[_Contents, ssl.SSLContext] | None = None
        try:
            self._served = self._read()
            self._context(self._served)
        except (OSError, ValueError) as error:
            raise DriverError(Code.FAILED_PRECONDITION, self._unusable(error)) from None

    def server_credentials(self) -> grpc.ServerCredentials:
        """Credentials of a server that has every client show a certificate, and has its own anew in each handshake."""
        return grpc.dynamic_ssl_server_credentials(
            _configuration(self._served),
            self._renewed,  # type: ignore[arg-type]  # None is documented
            require_client_authentication=True,
        )

    def workers_context(self) -> ssl.SSLContext:
        """For a client of workers, with the files as they are now; raises OSError or ValueError."""
        contents = self._read()
        if self._client is None or self._client[0] != contents:
            self._client = (contents, self._context(contents))
        return self._client[1]

    def _renewed(self) -> grpc.ServerCertificateConfiguration | None:
        """What gRPC asks for in each handshake, in a thread of its own: None if nothing has changed."""
        try:
            contents = self._read()
            if contents == self._served:
                return None
            self._context(contents)
        except (OSError, ValueError) as error:
            _LOGGER.warning("%s; the former ones stay in use", self._unusable(error))
            return None
        self._served = contents
        _LOGGER.info("the certificate in %s has changed", self._folder)
        return _configuration(contents)

    def _read(self) -> _Contents:
        # Kubelet replaces all files of a Secret at once, by a link: whoever follows it once reads files of one moment.
        link = self._folder / "..data"
        folder = link.resolve() if link.is_symlink() else self._folder
        authority, certificate, private_key = ((folder / name).read_bytes() for name in _FILES)
        return _Contents(authority=authority, certificate=certificate, private_key=private_key)

    def _context(self, contents: _Contents) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_verify_locations(cadata=contents.authority.decode("ascii"))
        context.load_cert_chain(self._folder / "tls.crt", self._folder / "tls.key", password="")
        return context

    def _unusable(self, error: OSError | ValueError) -> str:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or type(error).__name__
        return f"{', '.join(_FILES)} in {self._folder} cannot be used for TLS: {reason}"


def _configuration(contents: _Contents) -> grpc.ServerCertificateConfiguration:
    pair = (contents.private_key, contents.certificate)
    return grpc.ssl_server_certificate_configuration([pair], root_certificates=contents.authority)
