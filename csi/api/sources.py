"""What a Dataset's mounts ask for, as the driver's own words: sources, mount options, access modes, ignored fields.

A mount's options come in layers, of which a later one wins option by option, whatever words it is written in: the
runtime's ``fuse.properties``, the Dataset's ``sharedOptions``, the mount's ``options``, ``sharedEncryptOptions`` and
the mount's ``encryptOptions``. Values of Secrets are given by whoever may read them.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from csi.api.common import NetworkMode
from csi.api.dataset import Dataset, EncryptOption, Mount
from csi.api.efcruntime import EFCRuntime
from csi.api.ignored import CLOSED_OPTIONS, ignored_fields
from csi.base.errors import Code, DriverError, invalid
from csi.config import nfs_words
from csi.config.options import OPTIONS, parse, unknown
from csi.config.paths import check_relative
from csi.config.sources import Source

__all__ = ["ClaimSource", "access_modes", "ignored_fields", "is_writable", "options_of", "secrets_of", "source_of"]

READ_ONLY_MANY = "ReadOnlyMany"
#: Access modes of core/v1, and whether they let write.
ACCESS_MODES: Mapping[str, bool] = {
    READ_ONLY_MANY: False, "ReadWriteMany": True, "ReadWriteOnce": True, "ReadWriteOncePod": True,
}  # fmt: skip
#: Of a Dataset: the size of its claim and volume, which mean nothing to a NAS but to a ResourceQuota.
SIZE_ANNOTATION = "pvc.fluid.io/resources.requests.storage"
SIZE_DEFAULT = "100Pi"
#: Options that only the driver gives to a Dataset's volume.
_OURS = ("workers", "workers-key", "workers-tls")


#: An option and its value.
Item = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class ClaimSource:
    """``pvc://CLAIM[/DIR]``: the directory ``path`` (relative, "" is all of it) of another claim's volume."""

    claim: str
    path: str = ""


#: Names of claims (RFC 1123 subdomains).
_CLAIM = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
#: An authority with a colon behind it, as mount(8) writes it.
_COLON = re.compile(r"(\[[^/\]]*\]|[^/:\[\]]*)(:[0-9]+)?:/")


def source_of(mount_point: str) -> Source | ClaimSource:
    """Where a mount's data is. Raises INVALID_ARGUMENT.

    ``nfs://HOST[:PORT]:/DIR``, ``nfs://HOST[:PORT]/DIR``, ``cpfs://`` likewise, or ``pvc://CLAIM[/DIR]``.
    """
    scheme, _, rest = mount_point.partition("://")
    if scheme == "pvc":
        claim, _, path = rest.partition("/")
        if not _CLAIM.fullmatch(claim):
            raise invalid(f"source {mount_point[:256]!r}: {claim[:64]!r} is no name of a claim")
        return ClaimSource(claim=claim, path=check_relative(path.rstrip("/"), noun="the directory"))
    if scheme in ("nfs", "cpfs"):
        if colon := _COLON.match(rest):
            rest = rest[: colon.end() - 2] + rest[colon.end() - 1 :]
        return Source.parse(f"nfs://{rest}")
    return Source.parse(mount_point)


def access_modes(dataset: Dataset) -> tuple[str, ...]:
    """Access modes of the Dataset's claim and volume. Raises INVALID_ARGUMENT for one that there is not."""
    for mode in dataset.spec.access_modes:
        if mode not in ACCESS_MODES:
            raise unknown(mode, known=ACCESS_MODES, noun="access mode", origin="spec.accessModes")
    return tuple(dict.fromkeys(dataset.spec.access_modes)) or (READ_ONLY_MANY,)


def is_writable(dataset: Dataset) -> bool:
    """Whether the Dataset's access modes let anybody write."""
    return any(ACCESS_MODES[mode] for mode in access_modes(dataset))


def secrets_of(dataset: Dataset) -> frozenset[str]:
    """Names of the Secrets that the Dataset's options come from."""
    options = [*dataset.spec.shared_encrypt_options]
    for mount in dataset.spec.mounts:
        options += mount.encrypt_options
    return frozenset(
        option.value_from.secret_key_ref.name for option in options if option.value_from.secret_key_ref is not None
    )


def options_of(
    dataset: Dataset,
    mount: Mount,
    *,
    runtime: EFCRuntime | None = None,
    secrets: Mapping[str, Mapping[str, str]] | None = None,
    has_pod_network: bool = True,
) -> dict[str, str]:
    """The mount options of one mount, in words of CONFIGURATION.md; a flag without a value has "true".

    ``secrets`` are the Secrets of the Dataset's namespace, decoded, by name and key. Raises INVALID_ARGUMENT for an
    option that is unknown or wrong, FAILED_PRECONDITION for a Secret or key that is not there.
    """
    spec, found = dataset.spec, secrets or {}
    layers: list[tuple[str, Mapping[str, str]]] = [
        ("fuse.properties", _own_properties(runtime) if runtime else {}),
        ("sharedOptions", spec.shared_options),
        ("options", mount.options),
        ("sharedEncryptOptions", _decrypted(spec.shared_encrypt_options, found)),
        ("encryptOptions", _decrypted(mount.encrypt_options, found)),
    ]
    chosen: dict[str, Item] = {}
    for origin, given in layers:
        chosen = _over(chosen, given, origin=origin)
    _set_access(chosen, is_writable=is_writable(dataset), is_read_only=mount.read_only)
    if has_pod_network and runtime is not None and runtime.spec.fuse.network_mode == NetworkMode.CONTAINER:
        chosen.setdefault("network", ("network", "pod"))
    words = dict(chosen.values())
    parse(words.items(), origin="the Dataset's options")
    return words


def _own_properties(runtime: EFCRuntime) -> dict[str, str]:
    """``fuse.properties`` without what is for a closed client."""
    return {name: value for name, value in runtime.spec.fuse.properties.items() if not name.startswith(CLOSED_OPTIONS)}


def _decrypted(options: Iterable[EncryptOption], secrets: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """The options with their values out of Secrets."""
    values: dict[str, str] = {}
    for option in options:
        reference = option.value_from.secret_key_ref
        if reference is None:
            raise invalid(f"option {option.name!r} has no valueFrom.secretKeyRef: name a Secret and its key")
        secret = secrets.get(reference.name)
        if secret is None:
            raise _missing(f"option {option.name!r}: there is no Secret {reference.name!r} in the Dataset's namespace")
        if reference.key not in secret:
            raise _missing(f"option {option.name!r}: Secret {reference.name!r} has no key {reference.key!r}")
        values[option.name] = secret[reference.key]
    return values


def _missing(message: str) -> DriverError:
    return DriverError(Code.FAILED_PRECONDITION, message)


def _over(chosen: Mapping[str, Item], given: Mapping[str, str], *, origin: str) -> dict[str, Item]:
    """The options by field, with those of one more layer, which win. Raises INVALID_ARGUMENT."""
    for name in given:
        if name in _OURS:
            raise invalid(f"option {name!r} in {origin} is the driver's own for a Dataset: leave it out")
    items: list[tuple[str, str | None]] = [(name, value or None) for name, value in given.items()]
    was_soft = parse([chosen["soft"]], origin=origin).soft if "soft" in chosen else False
    # What is wrong within a layer is an error, as everywhere; whether `soft` is in force may be a lower layer's word.
    is_soft_given = any(name in ("soft", "hard") for name in given)
    parsed = parse([("soft", None), *items] if was_soft and not is_soft_given else items, origin=origin)
    fields = dict(chosen)
    if not parsed.soft:
        fields.pop("timeout_ms", None)
    for own in nfs_words.own_options(items, origin=origin, is_soft=was_soft):
        fields[OPTIONS[own.name].field] = (own.name, "true" if own.value is None else own.value)
    return fields


def _set_access(chosen: dict[str, Item], *, is_writable: bool, is_read_only: bool) -> None:
    """Read-only or not, and the consistency that goes with it unless the options have one."""
    asked = parse([chosen["read_only"]], origin="the Dataset's options").read_only if "read_only" in chosen else None
    reason = "accessModes has no mode that writes" if not is_writable else "the mount has readOnly: true"
    if asked is False and (is_read_only or not is_writable):
        raise invalid(f"option 'rw' cannot be had, since {reason}: leave it out, or change the other")
    if is_read_only or not is_writable or asked:
        chosen["read_only"] = ("ro", "true")
        chosen.setdefault("consistency", ("consistency", "bounded"))
        chosen.setdefault("attr_ttl_ms", ("attr-ttl", "3s"))
    else:
        chosen.setdefault("consistency", ("consistency", "cto"))
