"""Inline volumes: which pods may mount which sources by saying so in their own specification.

With a PersistentVolume an administrator says what may be mounted; an inline volume is the word of whoever may make a
pod. So none is allowed but what an administrator's list names, a file of JSON:

    [{"namespaces": ["team-a", "build-*"], "sources": ["nfs://nas/data/team"]}]

The file is read for every inline volume: a ConfigMap that changes is in force as soon as kubelet has written it to the
node, without a restart. A file that does not parse allows nothing. What is published stays published whatever becomes
of the list, so that a change never ends or blocks a pod that runs.

A volume is allowed at and beneath a listed source of the same host and ports; host names are compared as they are
written. The daemon then mounts the *listed* source and the volume is a path beneath it, opened without following links:
if the NAS were asked for the volume's own path, it would follow a link that a tenant made, out of what the tenant may
see.

Nor does a pod say which workers its dataset has: `workers-key` is a file of the node, and `workers` is where the node
connects to. Nor how much of the node's disk it takes for a local store.
"""

import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from csi.base.errors import Code, DriverError, invalid
from csi.base.saved import DamagedError, decoded
from csi.config.options import unknown
from csi.config.sources import Source
from csi.config.volumes import NodeVolume

#: Largest list in bytes: as large as a ConfigMap can be.
_FILE_BYTES_MAX = 1 << 20
#: A name of a namespace (RFC 1123 label), or the beginning of one and a "*".
_NAMESPACE = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?|([a-z0-9][a-z0-9-]{0,62})?\*")


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Pods of these namespaces may mount these sources and what lies beneath them."""

    namespaces: tuple[str, ...]
    sources: tuple[Source, ...]

    def is_for(self, namespace: str) -> bool:
        """Whether a namespace is named, or begins as a pattern does."""
        return any(
            namespace.startswith(pattern[:-1]) if pattern.endswith("*") else namespace == pattern
            for pattern in self.namespaces
        )


class AllowedSources:
    """The list in ``file``; without a file nothing is allowed."""

    def __init__(self, file: Path | None) -> None:
        self._file = file

    def admit(self, volume: NodeVolume) -> NodeVolume:
        """The volume as a path beneath the listed source that is nearest to it.

        Raises PERMISSION_DENIED if no rule allows it or it wants caches, FAILED_PRECONDITION if the list cannot be
        read.
        """
        namespace = volume.inline_in
        if namespace is None:
            raise ValueError("not an inline volume")
        if volume.options.workers_key or volume.options.workers_tls or volume.options.store_mib:
            # Which files of the node are used, and where its daemon connects to, is an administrator's to say.
            raise DriverError(
                Code.PERMISSION_DENIED,
                "an inline volume has none of the options 'workers', 'workers-key', 'workers-tls', 'cache-size' and "
                "'cache-dir': use a PersistentVolumeClaim",
            )
        if not isinstance(volume.source, Source):
            raise invalid("an inline volume has one 'source', and no 'sources'")
        wanted = volume.source.beneath(volume.path)
        allowed = [source for rule in self.rules() if rule.is_for(namespace) for source in rule.sources]
        near = sorted(allowed, key=lambda source: len(source.path), reverse=True)
        for source in near:
            if (path := wanted.relative_to(source)) is not None:
                return replace(volume, source=source, path=path)
        raise self._refusal(namespace, wanted, allowed)

    def rules(self) -> list[Rule]:
        """What the file says now; raises FAILED_PRECONDITION that names the file and what is wrong in it."""
        if self._file is None:
            return []
        try:
            return parse(_content(self._file))
        except DriverError as error:
            raise DriverError(
                Code.FAILED_PRECONDITION,
                f"no inline volume is allowed: the list of allowed sources, {self._file}, {error.message}",
            ) from None

    def _refusal(self, namespace: str, wanted: Source, allowed: Sequence[Source]) -> DriverError:
        here = ", ".join(sorted(source.canonical() for source in set(allowed))[:8])
        rule = json.dumps({"namespaces": [namespace], "sources": [wanted.canonical()]})
        mend = (
            "the driver's node part runs without a list of allowed sources (--allowed-sources)"
            if self._file is None
            else f"an administrator can add {rule} to inline.allowedSources of the chart (ConfigMap efc-inline)"
        )
        return DriverError(
            Code.PERMISSION_DENIED,
            f"pods of namespace {namespace!r} may not mount {wanted.canonical()} inline"
            f"{f' (allowed there is {here})' if here else ''}: use a PersistentVolumeClaim, or {mend}",
        )


def parse(text: bytes) -> list[Rule]:
    """Reads a list; raises INVALID_ARGUMENT whose message continues "the file ..."."""
    try:
        entries = decoded(text, bytes_max=_FILE_BYTES_MAX)
    except DamagedError as error:
        raise invalid(f"cannot be used: {error}") from None
    if not isinstance(entries, list):
        raise invalid("is no JSON array of rules")
    return [_rule(entry, place=f"rule {number}") for number, entry in enumerate(entries, start=1)]


def _rule(entry: object, *, place: str) -> Rule:
    if not isinstance(entry, dict):
        raise invalid(f'has a {place} that is no object: expected {{"namespaces": [...], "sources": [...]}}')
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


def _content(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            if os.fstat(opened.fileno()).st_size > _FILE_BYTES_MAX:
                raise invalid(f"is longer than {_FILE_BYTES_MAX} bytes")
            return opened.read(_FILE_BYTES_MAX)
    except OSError as error:
        raise invalid(f"cannot be read: {error.strerror}") from None
