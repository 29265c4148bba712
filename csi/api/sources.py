"""What a Dataset's mounts ask for, as the driver's own words: sources, mount options, access modes, ignored fields.

A mount's options come in layers, of which a later one wins option by option, whatever words it is written in: the
runtime's ``fuse.properties``, the Dataset's ``sharedOptions``, the mount's ``options``, ``sharedEncryptOptions`` and
the mount's ``encryptOptions``. The last two are kept apart: their values are in no object but a Secret.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from csi.api.common import NetworkMode, is_object_name
from csi.api.dataset import Dataset, EncryptOption, Mount
from csi.api.efcruntime import EFCRuntime
from csi.api.ignored import CLOSED_OPTIONS, ignored_fields
from csi.base.errors import Code, DriverError, invalid
from csi.config import nfs_words
from csi.config.mount_options import is_option, parse
from csi.config.options import OPTIONS
from csi.config.paths import check_relative
from csi.config.several import SOURCES_MAX, checked_path
from csi.config.sources import Source
from csi.config.unknown_names import unknown

__all__ = [
    "ClaimSource",
    "access_modes",
    "ignored_fields",
    "is_writable",
    "options_of",
    "options_of_all",
    "overlaid",
    "places_of",
    "secret_options_of",
    "secrets_of",
    "source_of",
]

READ_ONLY_MANY = "ReadOnlyMany"
#: Access modes of core/v1, and whether they let write.
ACCESS_MODES: Mapping[str, bool] = {
    READ_ONLY_MANY: False, "ReadWriteMany": True, "ReadWriteOnce": True, "ReadWriteOncePod": True,
}  # fmt: skip
#: Of a Dataset: the size of its claim and volume, which mean nothing to a NAS but to a ResourceQuota.
SIZE_ANNOTATION = "pvc.fluid.io/resources.requests.storage"
SIZE_DEFAULT = "100Pi"
#: Most Secrets of one Dataset's options: they are read again and again, and other Datasets wait meanwhile.
SECRETS_MAX = 32
#: Options that only the driver gives to a Dataset's volume.
_OURS = ("workers", "workers-key", "workers-tls")


#: Options that say whether anybody writes, and those that say whether anybody waits for ever.
_ACCESS, _SOFT = ("ro", "rw"), ("soft", "hard")


@dataclass(frozen=True, kw_only=True)
class ClaimSource:
    """``pvc://CLAIM[/DIR]``: the directory ``path`` (relative, "" is all of it) of another claim's volume."""

    claim: str
    path: str = ""


#: An authority with a colon behind it, as mount(8) writes it.
_COLON = re.compile(r"(\[[^/\]]*\]|[^/:\[\]]*)(:[0-9]+)?:/")


def source_of(mount_point: str) -> Source | ClaimSource:
    """Where a mount's data is. Raises INVALID_ARGUMENT.

    ``nfs://HOST[:PORT]:/DIR``, ``nfs://HOST[:PORT]/DIR``, ``cpfs://`` likewise, or ``pvc://CLAIM[/DIR]``.
    """
    scheme, _, rest = mount_point.partition("://")
    if scheme == "pvc":
        claim, _, path = rest.partition("/")
        if not is_object_name(claim):
            raise invalid(f"source {mount_point[:256]!r}: {claim[:64]!r} is not the name of a claim")
        return ClaimSource(claim=claim, path=check_relative(path.rstrip("/"), noun="the directory"))
    if scheme in ("nfs", "cpfs"):
        if colon := _COLON.match(rest):
            rest = rest[: colon.end() - 2] + rest[colon.end() - 1 :]
        return Source.parse(f"nfs://{rest}")
    return Source.parse(mount_point)


def places_of(dataset: Dataset) -> tuple[str, ...]:
    """Where each mount shows below the root; "/" is the root itself, of a single one. Raises INVALID_ARGUMENT."""
    mounts = dataset.spec.mounts
    if len(mounts) == 1:
        return (checked_path(mounts[0].path),)
    if len(mounts) > SOURCES_MAX:
        raise invalid(
            f"{len(mounts)} mounts are more than the {SOURCES_MAX} that one Dataset can have: make another Dataset"
        )
    return tuple(checked_path(mount.path or mount.name) for mount in mounts)


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
    """Names of the Secrets that the Dataset's options come from; INVALID_ARGUMENT for more than are read.

    What is no name is left out: there is no Secret of it, and in a path of the API it would lead elsewhere.
    """
    options = [*dataset.spec.shared_encrypt_options]
    for mount in dataset.spec.mounts:
        options += mount.encrypt_options
    references = (option.value_from.secret_key_ref for option in options)
    found = frozenset(one.name for one in references if one is not None and is_object_name(one.name))
    if len(found) > SECRETS_MAX:
        raise invalid(
            f"options come out of {len(found)} Secrets, and no more than {SECRETS_MAX} are read: put them into fewer"
        )
    return found


def options_of_all(
    dataset: Dataset,
    *,
    runtime: EFCRuntime | None = None,
    secrets: Mapping[str, Mapping[str, str]] | None = None,
    has_pod_network: bool = True,
) -> dict[str, str]:
    """The mount options of all mounts, which one daemon serves; that one of several is read-only is no option.

    Raises INVALID_ARGUMENT for options that are not the same for all of them, and what :func:`options_of` does.
    """
    mounts = dataset.spec.mounts
    if not mounts:
        raise invalid("spec.mounts is empty: there is nothing to mount")
    is_read_only = all(mount.read_only for mount in mounts)
    found = [
        options_of(
            dataset,
            mount.model_copy(update={"read_only": is_read_only}),
            runtime=runtime,
            secrets=secrets,
            has_pod_network=has_pod_network,
        )
        for mount in mounts
    ]
    if "small-files" in found[0]:
        raise invalid(
            "option 'small-files' says in whose name all is read, which a Dataset does not decide: mount the same "
            "directory by a StorageClass or PersistentVolume"
        )
    for place, words in zip(places_of(dataset), found, strict=True):
        for name in sorted({*words, *found[0]}):
            if words.get(name) != found[0].get(name):
                raise invalid(
                    f"option {name!r} of the mount at {place} is not that of the first one: one daemon serves all "
                    "mounts, so write it in sharedOptions, or make another Dataset for it (readOnly alone may differ)"
                )
    return found[0]


def options_of(
    dataset: Dataset,
    mount: Mount,
    *,
    runtime: EFCRuntime | None = None,
    secrets: Mapping[str, Mapping[str, str]] | None = None,
    has_pod_network: bool = True,
) -> dict[str, str]:
    """The mount options of one mount, in words of CONFIGURATION.md; a flag without a value has "true".

    Without ``secrets``, those whose values stand in Secrets are not among them, and the options may be seen by anybody.
    ``has_pod_network``: whether nodes have pods ``efc-network``. Raises INVALID_ARGUMENT for an option that is unknown
    or wrong, and what :func:`secret_options_of` does.
    """
    words: dict[str, str] = {}
    if runtime is not None:
        words = overlaid(words, _own_properties(runtime), origin="fuse.properties")
    words = overlaid(words, dataset.spec.shared_options, origin="sharedOptions")
    words = overlaid(words, mount.options, origin="options")
    if has_pod_network and runtime is not None and runtime.spec.fuse.network_mode == NetworkMode.CONTAINER:
        words.setdefault("network", "pod")
    if secrets is not None:
        words = overlaid(words, secret_options_of(dataset, mount, secrets), origin="encryptOptions")
    return _with_access(words, is_writable=is_writable(dataset), is_read_only=mount.read_only)


def secret_options_of(dataset: Dataset, mount: Mount, secrets: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """The options of one mount whose values stand in Secrets, in words of CONFIGURATION.md; they win over the others.

    ``secrets`` are the Secrets of the Dataset's namespace, decoded, by name and key. Raises INVALID_ARGUMENT, and
    FAILED_PRECONDITION for a Secret or key that is not there; no value is in a message.
    """
    words: dict[str, str] = {}
    layers = (("sharedEncryptOptions", dataset.spec.shared_encrypt_options), ("encryptOptions", mount.encrypt_options))
    for origin, options in layers:
        given = {option.name: _decrypted(option, secrets, origin=origin) for option in options}
        words = overlaid(words, given, origin=origin)
    return words


def overlaid(options: Mapping[str, str], over: Mapping[str, str], *, origin: str) -> dict[str, str]:
    """Mount options with others that win, whatever words both are written in; in words of the driver's own table.

    ``origin`` says where the others come from. Raises INVALID_ARGUMENT for what is wrong with them.
    """
    for name in over:
        if name in _OURS:
            raise invalid(f"option {name!r} in {origin} is set by the driver for a Dataset: leave it out")
    items: list[tuple[str, str | None]] = [(name, value or None) for name, value in over.items()]
    was_soft = parse(options.items(), origin="options").soft
    # What is wrong within a layer is an error, as everywhere; whether `soft` is in force may be a lower layer's word.
    is_soft_given = any(name in ("soft", "hard") for name in over)
    parsed = parse([("soft", None), *items] if was_soft and not is_soft_given else items, origin=origin)
    fields = {OPTIONS[name].field: (name, value) for name, value in options.items()}
    if not parsed.soft:
        fields.pop("timeout_ms", None)
    for own in nfs_words.own_options(items, origin=origin, is_soft=was_soft):
        fields[OPTIONS[own.name].field] = (own.name, "true" if own.value is None else own.value)
    return dict(fields.values())


def _own_properties(runtime: EFCRuntime) -> dict[str, str]:
    """``fuse.properties`` without what is for a closed client."""
    return {name: value for name, value in runtime.spec.fuse.properties.items() if not name.startswith(CLOSED_OPTIONS)}


def _decrypted(option: EncryptOption, secrets: Mapping[str, Mapping[str, str]], *, origin: str) -> str:
    """The option's value out of its Secret."""
    name, reference = option.name, option.value_from.secret_key_ref
    if reference is None:
        raise invalid(f"option {name!r} in {origin} has no valueFrom.secretKeyRef: name a Secret and its key")
    secret = secrets.get(reference.name)
    if secret is None:
        raise _missing(f"option {name!r} in {origin}: there is no Secret {reference.name!r} in the Dataset's namespace")
    if reference.key not in secret:
        raise _missing(f"option {name!r} in {origin}: Secret {reference.name!r} has no key {reference.key!r}")
    if name in _ACCESS:
        raise invalid(f"option {name!r} in {origin} must not come from a Secret: write readOnly or accessModes")
    if not is_option(name):
        raise unknown(name, known=OPTIONS, also=nfs_words.WORDS, noun="option", origin=origin)
    value = secret[reference.key]
    try:
        # With `timeout` alone something else would be wrong.
        parse([("soft", None), (name, value or None)] if name not in _SOFT else [(name, value or None)], origin=origin)
    except DriverError:
        where = f"value of Secret {reference.name!r}, key {reference.key!r}"
        allowed = f"; allowed is {OPTIONS[name].allowed()}" if name in OPTIONS else ""
        raise invalid(f"option {name!r} in {origin} cannot have the {where}{allowed}") from None
    return value


def _missing(message: str) -> DriverError:
    return DriverError(Code.FAILED_PRECONDITION, message)


def _with_access(words: dict[str, str], *, is_writable: bool, is_read_only: bool) -> dict[str, str]:
    """The options with what access asks for: read-only or not, and, unless they have one, the consistency."""
    given = {name for name in _ACCESS if name in words}
    asked = parse(words.items(), origin="the Dataset's options").read_only
    reason = "accessModes has no mode for writing" if not is_writable else "the mount has readOnly: true"
    if given and not asked and (is_read_only or not is_writable):
        raise invalid(f"option 'rw' cannot be used, since {reason}: leave it out, or change that")
    if not (is_read_only or asked) and is_writable:
        return {"consistency": "cto"} | words
    kept = {name: value for name, value in words.items() if name not in _ACCESS}
    return {"ro": "true", "consistency": "bounded", "attr-ttl": "3s"} | kept
