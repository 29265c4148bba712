"""Where a dataset is: ``nfs://host[:port]/path[?mountport=N]``, or ``nfs://host:/path`` as people write it.

The canonical form is what everything else compares, hashes and hands on. A path is taken literally (no percent
decoding); ``.``, ``..`` and control characters are refused, never cleaned away. There is no user or password in such a
URL: one that has them is refused without repeating it.
"""

import ipaddress
import re
from dataclasses import dataclass, replace
from typing import Self

from csi.base.errors import DriverError, invalid
from csi.config.paths import check_components

#: Longest path in bytes: MNTPATHLEN of the MOUNT protocol (RFC 1813, appendix I).
PATH_LENGTH_MAX = 1024
_URL_LENGTH_MAX = 2048
#: Longest host name in characters (RFC 1035).
_HOST_LENGTH_MAX = 253
_PORT_MAX = 65535
_FORM = "expected nfs://HOST[:PORT]/PATH[?mountport=PORT]"


@dataclass(frozen=True, kw_only=True)
class Source:
    """A directory of a NAS. ``port`` and ``mount_port`` are 0 when the NAS is to be asked."""

    host: str
    path: str
    port: int = 0
    mount_port: int = 0

    @classmethod
    def parse(cls, url: str) -> Self:
        """Reads a source; raises INVALID_ARGUMENT for anything that is not of the form above."""
        if len(url) > _URL_LENGTH_MAX:
            raise invalid(f"the source is longer than {_URL_LENGTH_MAX} characters; {_FORM}")
        if not url.startswith("nfs://"):
            scheme = url.partition("://")[0] if "://" in url else ""
            # host:/path, as mount(8) has it.
            hint = f" (did you mean {'nfs://' + url!r}?)" if re.match(r"[^/@]+:/(?!/)", url) else ""
            raise invalid(
                f"source {url!r}: "
                + (f"sources of type {scheme!r} are not supported; {_FORM}" if scheme else _FORM + hint)
            )
        authority, slash, rest = url.removeprefix("nfs://").partition("/")
        if "@" in authority or ("@" in rest and _has_password(authority)):
            raise invalid(f"a source has no user or password; {_FORM}")
        if not slash:
            raise invalid(f"source {url!r} has no path; {_FORM}")
        path, question, query = rest.partition("?")
        host, port = _authority(authority, url=url)
        return cls(
            host=host,
            port=port,
            path=_path(path, url=url),
            mount_port=_query(query, url=url) if question else 0,
        )

    @classmethod
    def of(cls, *, host: str, path: str) -> Self:
        """A source whose ``host`` (an IPv6 address may do without brackets) and absolute ``path`` stand apart.

        Raises INVALID_ARGUMENT; nothing in either of them is taken for a part of the other, or for a port.
        """
        whole = f"[{host}]" if host.count(":") > 1 and not host.startswith("[") else host
        url = f"nfs://{whole[:_HOST_LENGTH_MAX]}{path[:PATH_LENGTH_MAX]}"
        if not path.startswith("/") or "?" in path:
            raise invalid(f"path {path[:256]!r} on server {host[:256]!r} must be absolute, and without '?'")
        name, port = _authority(whole, url=url)
        if port:
            raise invalid(f"server {host[:256]!r} has a port: give it as the option 'port'")
        return cls(host=name, path=_path(path.lstrip("/"), url=url))

    def canonical(self) -> str:
        """The source's one canonical form, which :meth:`parse` reads back as an equal object."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = f":{self.port}" if self.port else ""
        query = f"?mountport={self.mount_port}" if self.mount_port else ""
        return f"nfs://{host}{port}{self.path}{query}"

    __str__ = canonical

    def with_ports(self, *, port: int, mount_port: int) -> "Source":
        """The source with the given ports, where they are not 0; INVALID_ARGUMENT if it has others already."""
        for name, old, new in (("port", self.port, port), ("mountport", self.mount_port, mount_port)):
            if old and new and old != new:
                raise invalid(f"option {name}={new} contradicts the source {self.canonical()!r}: give it in one place")
        return replace(self, port=self.port or port, mount_port=self.mount_port or mount_port)

    def beneath(self, path: str) -> "Source":
        """The directory ``path`` of this source; ``path`` must be a checked relative one, "" is the source itself."""
        return replace(self, path=f"{self.path.rstrip('/')}/{path}") if path else self

    def relative_to(self, parent: "Source") -> str | None:
        """The path from ``parent`` down to this source ("" if equal), or None if it does not lie at or beneath it."""
        if (self.host, self.port, self.mount_port) != (parent.host, parent.port, parent.mount_port):
            return None
        if self.path == parent.path:
            return ""
        prefix = parent.path.rstrip("/") + "/"
        return self.path.removeprefix(prefix) if self.path.startswith(prefix) else None


def _has_password(authority: str) -> bool:
    """Whether ``authority`` is no host and port, but a user and the beginning of a password with a "/" in it."""
    _, colon, port = authority.rpartition("]")[2].partition(":")
    return bool(colon) and not re.fullmatch(r"[0-9]*", port)


def _authority(text: str, *, url: str) -> tuple[str, int]:
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise invalid(f"source {url!r} has an IPv6 address without its closing bracket; {_FORM}")
        port_text = rest.removeprefix(":")
        try:
            host = ipaddress.IPv6Address(host).compressed
        except ValueError:
            raise invalid(f"source {url!r}: {host!r} is not an IPv6 address") from None
        if "%" in host:
            raise invalid(f"source {url!r}: an IPv6 address with a zone means nothing on another node")
        return host, _port(port_text, url=url, name="port")
    host, _, port_text = text.partition(":")
    if not _is_host(host):
        hint = " (an IPv6 address needs brackets)" if text.count(":") > 1 else ""
        raise invalid(f"source {url!r}: {host!r} is not a host name or address{hint}; {_FORM}")
    return host.lower(), _port(port_text, url=url, name="port")


def _is_host(text: str) -> bool:
    label = r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
    return len(text) <= _HOST_LENGTH_MAX and re.fullmatch(rf"{label}(\.{label})*\.?", text) is not None


def _port(text: str, *, url: str, name: str) -> int:
    """The port that ``text`` names; 0 for an empty text, as in ``nfs://host:/path``."""
    if not text:
        return 0
    if not re.fullmatch(r"[0-9]{1,5}", text) or not 1 <= int(text) <= _PORT_MAX:
        raise invalid(f"source {url!r}: {name} {text!r} is not a number from 1 to 65535")
    return int(text)


def _path(text: str, *, url: str) -> str:
    trimmed = text.rstrip("/")
    if not trimmed:
        return "/"
    try:
        check_components(trimmed)
    except DriverError as error:
        raise invalid(f"source {url!r}: its path {error.message}") from None
    if len(trimmed.encode(errors="surrogatepass")) >= PATH_LENGTH_MAX:
        raise invalid(f"source {url!r}: its path is longer than {PATH_LENGTH_MAX - 1} bytes")
    return "/" + trimmed


def _query(text: str, *, url: str) -> int:
    name, _, value = text.partition("=")
    if name != "mountport" or not value:
        raise invalid(f"source {url!r}: {text!r} is not mountport=PORT, the only parameter that there is")
    return _port(value, url=url, name="mountport")
