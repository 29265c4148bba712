"""The administrator's list of sources that each namespace may name.

It is a file of JSON:

    [{"namespaces": ["team-a", "build-*"], "sources": ["nfs://nas/data/team"]}]

A source is allowed at and beneath a listed one of the same host and ports; host names are compared as they are written.
What lies beneath is opened from the *listed* source on, without following links: if the NAS were asked for the path
itself, it would follow a link that a tenant made, out of what the tenant may see.
"""

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from csi.base.errors import DriverError, invalid
from csi.base.saved import DamagedError, decoded
from csi.config.sources import Source
from csi.config.unknown_names import unknown

#: Largest list in bytes: as large as a ConfigMap can be.
_FILE_BYTES_MAX = 1 << 20
#: Most sources that a message names.
_NAMED_MAX = 8
#: A name of a namespace (RFC 1123 label), or the beginning of one and a "*".
_NAMESPACE = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?|([a-z0-9][a-z0-9-]{0,62})?\*")


@dataclass(frozen=True, kw_only=True)
class Rule:
    """These namespaces may name these sources and what lies beneath them."""

    namespaces: tuple[str, ...]
    sources: tuple[Source, ...]

    def is_for(self, namespace: str) -> bool:
        """Whether a namespace is named, or begins as a pattern does."""
        return any(
            namespace.startswith(pattern[:-1]) if pattern.endswith("*") else namespace == pattern
            for pattern in self.namespaces
        )


def allowed_in(namespace: str, rules: Iterable[Rule]) -> list[Source]:
    """All sources that a namespace may name."""
    return [source for rule in rules if rule.is_for(namespace) for source in rule.sources]


def nearest(wanted: Source, allowed: Iterable[Source]) -> Source | None:
    """The listed source at or beneath which ``wanted`` is; of several the longest, None if it is at none."""
    for source in sorted(allowed, key=lambda source: len(source.path), reverse=True):
        if wanted.relative_to(source) is not None:
            return source
    return None


def named(allowed: Iterable[Source]) -> str:
    """Sources for a message."""
    return ", ".join(sorted({source.canonical() for source in allowed})[:_NAMED_MAX])


def read(file: Path) -> list[Rule]:
    """What the file says now; raises INVALID_ARGUMENT whose message continues "the file ..."."""
    try:
        with file.open("rb") as opened:
            if os.fstat(opened.fileno()).st_size > _FILE_BYTES_MAX:
                raise invalid(f"is longer than {_FILE_BYTES_MAX} bytes")
            content = opened.read(_FILE_BYTES_MAX)
    except OSError as error:
        raise invalid(f"cannot be read: {error.strerror}") from None
    return parse(content)


def parse(text: bytes) -> list[Rule]:
    """Reads a list; raises INVALID_ARGUMENT whose message continues "the file ..."."""
    try:
        entries = decoded(text, bytes_max=_FILE_BYTES_MAX)
    except DamagedError as error:
        raise invalid(f"cannot be used: {error}") from None
    if not isinstance(entries, list):
        raise invalid("is not a JSON array of rules")
    return [_rule(entry, place=f"rule {number}") for number, entry in enumerate(entries, start=1)]


def _rule(entry: object, *, place: str) -> Rule:
    if not isinstance(entry, dict):
        raise invalid(f'has a {place} that is not an object: expected {{"namespaces": [...], "sources": [...]}}')
    for name in entry:
        if name not in ("namespaces", "sources"):
            raise unknown(name, known=["namespaces", "sources"], noun="key", origin=place)
    namespaces = tuple(_strings(entry, "namespaces", place=place))
    for namespace in namespaces:
        if not _NAMESPACE.fullmatch(namespace):
            raise invalid(
                f"has namespace {namespace[:64]!r} in {place}: expected a name, or the beginning of one and a '*'"
            )
    try:
        sources = tuple(Source.parse(url) for url in _strings(entry, "sources", place=place))
    except DriverError as error:
        raise invalid(f"has a bad source in {place}: {error.message}") from None
    return Rule(namespaces=namespaces, sources=sources)


def _strings(entry: dict[object, object], name: str, *, place: str) -> Iterator[str]:
    values = entry.get(name)
    if not isinstance(values, list) or not values:
        raise invalid(f"has no array {name!r} in {place}")
    for value in values:
        if not isinstance(value, str):
            raise invalid(f"has something else than a string in {name!r} of {place}")
        yield value
