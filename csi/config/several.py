"""Several sources under one root: each at a path of its own, none at or inside another's.

Their canonical form is JSON, in the order of their paths: ``[{"path": "/a", "source": "nfs://nas/x"}, ...]``, with
``"readOnly": true`` where nobody changes anything. Like a source's URL it is what is compared, hashed and handed on.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Self

from csi._proto import efc_pb2
from csi.base.errors import DriverError, invalid
from csi.config.paths import check_components
from csi.config.sources import PATH_LENGTH_MAX, Source

#: As many as one daemon serves (SOURCES_MAX of efc/sources).
SOURCES_MAX = 64
#: Longest canonical form, and longest text that is read: twice that, as JSON within JSON may be, fits a record.
SOURCES_BYTES_MAX = 64 * 1024
_SHORT_LENGTH_MAX = 64
_FORM = 'expected PATH=SOURCE, such as "/models=nfs://nas/models"'


def short_form(canonical: str) -> str:
    """What a canonical form is known by among others, in no more than 64 characters; itself if it has no more."""
    if len(canonical) <= _SHORT_LENGTH_MAX:
        return canonical
    return f"sha256:{hashlib.sha256(canonical.encode(errors='surrogateescape')).hexdigest()[:40]}"


def checked_path(path: str) -> str:
    """The canonical form of where a source shows, "/" for the root; raises INVALID_ARGUMENT."""
    trimmed = path.strip("/")
    if not trimmed:
        return "/"
    try:
        check_components(trimmed)
        if len(trimmed.encode()) >= PATH_LENGTH_MAX:
            raise invalid(f"is longer than {PATH_LENGTH_MAX - 1} bytes")
    except DriverError as error:
        raise invalid(f"path {path[:256]!r} of a source {error.message}") from None
    return "/" + trimmed


@dataclass(frozen=True, kw_only=True)
class MountedSource:
    """A source, where it shows below the root, and whether nobody changes anything there."""

    path: str
    source: Source
    read_only: bool = False

    @classmethod
    def parse(cls, text: str, *, read_only: bool = False) -> Self:
        """Reads ``PATH=SOURCE``; raises INVALID_ARGUMENT."""
        path, equals, url = text.partition("=nfs://")
        if not equals:
            raise invalid(f"source {text[:256]!r}: {_FORM}")
        return cls(path=checked_path(path), source=Source.parse(f"nfs://{url}"), read_only=read_only)

    def __str__(self) -> str:
        return f"{self.path}={self.source}"


@dataclass(frozen=True, kw_only=True)
class Sources:
    """Sources that are served together, in the order of their paths.

    ``identity`` names them as a whole where they come and go while they are mounted, as those of a Dataset may.
    """

    mounted: tuple[MountedSource, ...]
    identity: str = field(default="", compare=False)

    @classmethod
    def of(cls, mounted: Iterable[MountedSource], *, identity: str = "") -> Self:
        """Raises INVALID_ARGUMENT if they cannot be served together."""
        ordered = tuple(sorted(mounted, key=lambda one: one.path))
        if not 1 <= len(ordered) <= SOURCES_MAX:
            raise invalid(f"{len(ordered)} sources: a root has from 1 to {SOURCES_MAX}")
        for one in ordered:
            for other in ordered:
                if one is not other and (one.path == "/" or f"{other.path}/".startswith(f"{one.path}/")):
                    raise invalid(f"sources at {one.path!r} and at {other.path!r}: none may lie at or inside another")
        if ordered[0].path == "/":
            raise invalid("a source at '/' is the only one: name it without a path")
        sources = cls(mounted=ordered, identity=identity)
        if (length := len(sources.canonical())) > SOURCES_BYTES_MAX:
            raise invalid(f"{len(ordered)} sources are {length} bytes, longer than the {SOURCES_BYTES_MAX} allowed")
        return sources

    @classmethod
    def parse(cls, text: str, *, identity: str = "") -> Self:
        """Reads the form above; raises INVALID_ARGUMENT."""
        try:
            found = json.loads(text)
            mounted = [_mounted(one) for one in found]
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise invalid(
                f'sources {text[:256]!r}: expected JSON such as [{{"path": "/a", "source": "nfs://nas/x"}}]'
            ) from None
        return cls.of(mounted, identity=identity)

    def canonical(self) -> str:
        """The sources' one canonical form, which :meth:`parse` reads back as equal ones."""
        return json.dumps([_described(one) for one in self.mounted], separators=(",", ":"))

    def __str__(self) -> str:
        return ", ".join(str(one) for one in self.mounted)

    def with_ports(self, *, port: int, mount_port: int) -> Self:
        """Each source with the given ports, where they are not 0; INVALID_ARGUMENT if one has others already."""
        return replace(
            self,
            mounted=tuple(
                replace(one, source=one.source.with_ports(port=port, mount_port=mount_port)) for one in self.mounted
            ),
        )

    def hosts(self) -> str:
        """Their servers, for people."""
        return ", ".join(sorted({one.source.host for one in self.mounted}))

    def to_wire(self) -> list[efc_pb2.MountedSource]:
        """What a daemon is told."""
        return [
            efc_pb2.MountedSource(path=one.path, source=source_to_wire(one.source), read_only=one.read_only)
            for one in self.mounted
        ]


def origin_of(text: str) -> Source | Sources:
    """One source, or several, in their canonical form; raises INVALID_ARGUMENT."""
    return Sources.parse(text) if text.startswith("[") else Source.parse(text)


def described_place(origin: Source | Sources, path: str) -> tuple[str, str]:
    """The directory ``path`` below the root, and the servers that have it, for people."""
    if isinstance(origin, Source):
        return origin.beneath(path).canonical(), origin.host
    for one in origin.mounted:
        if f"/{path}/".startswith(f"{one.path}/"):
            return one.source.beneath(f"/{path}".removeprefix(one.path).strip("/")).canonical(), one.source.host
    return f"/{path} of {origin}", origin.hosts()


def origin_of_wire(config: efc_pb2.DaemonConfig) -> Source | Sources:
    """What a daemon was told."""
    if not config.sources:
        return _source_of_wire(config.source)
    mounted = (
        MountedSource(path=one.path, source=_source_of_wire(one.source), read_only=one.read_only)
        for one in config.sources
    )
    return Sources(mounted=tuple(mounted))


def source_to_wire(source: Source) -> efc_pb2.Source:
    """What a daemon is told of one source."""
    return efc_pb2.Source(host=source.host, port=source.port, mount_port=source.mount_port, path=source.path)


def _source_of_wire(source: efc_pb2.Source) -> Source:
    return Source(host=source.host, port=source.port, mount_port=source.mount_port, path=source.path)


def _mounted(found: dict[str, Any]) -> MountedSource:
    if unknown := set(found) - {"path", "source", "readOnly"}:
        raise ValueError(f"unknown keys {unknown}")
    read_only = found.get("readOnly", False)
    if not isinstance(read_only, bool):
        raise TypeError("readOnly is not a boolean")
    return MountedSource(path=checked_path(found["path"]), source=Source.parse(found["source"]), read_only=read_only)


def _described(one: MountedSource) -> dict[str, object]:
    described: dict[str, object] = {"path": one.path, "source": one.source.canonical()}
    return described | {"readOnly": True} if one.read_only else described
