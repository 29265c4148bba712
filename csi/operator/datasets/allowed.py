"""Which namespaces may name which sources in a Dataset: those of an administrator's list; without a list, all.

For ``pvc://`` the directory of the volume counts. A list that cannot be read allows nothing. Mounted Datasets stay
mounted whatever becomes of the list.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from csi.base.errors import Code, DriverError
from csi.config.allowed_sources import Rule, allowed_in, named, nearest, read
from csi.config.sources import Source


@dataclass(frozen=True, kw_only=True)
class AllowedSources:
    """``rules`` is None where there is no list; ``reason``: why the one that there is cannot be used."""

    rules: tuple[Rule, ...] | None = None
    reason: str = ""

    @classmethod
    def of(cls, file: Path | None) -> "AllowedSources":
        """What the file says now."""
        if file is None:
            return cls()
        try:
            return cls(rules=tuple(read(file)))
        except DriverError as error:
            return cls(rules=(), reason=f"no source is allowed: the list of allowed sources, {file}, {error.message}")

    def root(self, wanted: Source, *, namespace: str, present: str) -> Source:
        """The directory from which on ``wanted`` is opened without following links: itself where there is no list.

        ``present``, from which on it is opened already, stays while it is listed. Raises PERMISSION_DENIED.
        """
        if self.rules is None:
            return wanted
        allowed = allowed_in(namespace, self.rules)
        kept = [source for source in allowed if source.canonical() == present]
        found = nearest(wanted, kept) or nearest(wanted, allowed)
        if found is None:
            raise DriverError(Code.PERMISSION_DENIED, self.reason or _refusal(wanted, namespace, allowed))
        return found

    def check_listed(self, wanted: Source, *, namespace: str) -> None:
        """Raises PERMISSION_DENIED if ``wanted``, one of several sources under one root, is no listed one itself.

        What lies beneath one is refused: daemons open each of several as the NAS finds it, which follows links.
        """
        allowed = allowed_in(namespace, self.rules or ())
        if self.rules is not None and wanted not in allowed:
            raise DriverError(Code.PERMISSION_DENIED, self.reason or _refusal_of_several(wanted, namespace, allowed))


def _refusal(wanted: Source, namespace: str, allowed: list[Source]) -> str:
    here = f"name what lies at or beneath {named(allowed)}, or " if allowed else ""
    return f"Datasets of namespace {namespace!r} may not name {wanted.canonical()}: {here}{_rule(wanted, namespace)}"


def _refusal_of_several(wanted: Source, namespace: str, allowed: list[Source]) -> str:
    here = f"name {named(allowed)}, or " if allowed else ""
    return (
        f"Datasets of namespace {namespace!r} may not name {wanted.canonical()} as one of several mounts, or one with"
        f" a path: each must be a listed source itself. {here}{_rule(wanted, namespace)}"
    )


def _rule(wanted: Source, namespace: str) -> str:
    rule = json.dumps({"namespaces": [namespace], "sources": [wanted.canonical()]})
    return f"an administrator can add {rule} to dataset.allowedSources of the chart (ConfigMap efc-datasets)"
