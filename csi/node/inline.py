"""Inline volumes: which pods may mount which sources by naming them in their own specification.

A PersistentVolume is made by an administrator; an inline volume is defined by whoever may create a pod. So only those
sources are allowed that an administrator's list names (:mod:`csi.config.allowed_sources`).

The file is read for every inline volume: a changed ConfigMap takes effect as soon as kubelet has written it to the
node, without a restart. A file that does not parse allows nothing. Published volumes stay published whatever becomes of
the list, so that a change never ends or blocks a running pod.

The daemon mounts the *listed* source, and the volume is a path beneath it, opened without following links.

Options about the node are refused in a pod: `workers-key` names a file of the node, `workers` where the node connects
to; others say how much of the node's disk a local store takes, or with which credentials the NAS is asked.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from csi.base.errors import Code, DriverError, invalid
from csi.config.allowed_sources import Rule, allowed_in, named, nearest, read
from csi.config.sources import Source
from csi.config.volumes import NodeVolume


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
        if volume.options.small_files:
            raise DriverError(
                Code.PERMISSION_DENIED,
                "an inline volume has no option 'small-files', which says in whose name all is read: use a "
                "PersistentVolumeClaim",
            )
        if not isinstance(volume.source, Source):
            raise invalid("an inline volume has one 'source', and no 'sources'")
        wanted = volume.source.beneath(volume.path)
        allowed = allowed_in(namespace, self.rules())
        source = nearest(wanted, allowed)
        path = wanted.relative_to(source) if source is not None else None
        if source is None or path is None:
            raise self._refusal(namespace, wanted, allowed)
        return replace(volume, source=source, path=path)

    def rules(self) -> list[Rule]:
        """What the file says now; raises FAILED_PRECONDITION that names the file and what is wrong in it."""
        if self._file is None:
            return []
        try:
            return read(self._file)
        except DriverError as error:
            raise DriverError(
                Code.FAILED_PRECONDITION,
                f"no inline volume is allowed: the list of allowed sources, {self._file}, {error.message}",
            ) from None

    def _refusal(self, namespace: str, wanted: Source, allowed: Sequence[Source]) -> DriverError:
        here = named(allowed)
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
