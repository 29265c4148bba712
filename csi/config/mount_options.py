"""Parses and checks mount options: text in, values out.

It is an allow-list: an option that is not in the table (:mod:`csi.config.options`) is an error that lists those that
are. An option is one name and one value; nothing inside a value is ever taken for another option (a comma, an equals
sign or a newline in a value is an error), which is how other drivers were made to mount with options of an attacker's
choice.
"""

from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, fields

from google.protobuf.message import Message

from csi._proto import efc_pb2
from csi.base.errors import invalid
from csi.config import nfs_words
from csi.config.option_values import value_of
from csi.config.options import (
    CLOSE_TO_OPEN,
    KEEPERS_NETWORK,
    OPTIONS,
    PASSTHROUGH,
    PREFETCH,
    RUNNING_KERNELS,
    Change,
    Option,
)
from csi.config.several import Sources, source_to_wire
from csi.config.sources import Source
from csi.config.unknown_names import unknown


@dataclass(frozen=True, kw_only=True)
class MountOptions:
    """Checked options. Zero for a port means: not given."""

    read_only: bool = False
    port: int = 0
    mount_port: int = 0
    connections: int = 4
    soft: bool = False
    timeout_ms: int = 30_000
    consistency: str = CLOSE_TO_OPEN
    attr_ttl_ms: int = 3000
    attr_ttl_max_ms: int = 60_000
    entry_ttl_ms: int = 1000
    small_files: str = ""
    read_ahead_kib: int = 8192
    uncommitted_mib: int = 64
    metadata_mib: int = 128
    memory_max_mib: int = 0
    write_behind_ms: int = 1000
    workers: str = ""
    workers_key: str = ""
    workers_tls: str = ""
    store_mib: int = 0
    store_dir: str = ""
    store_free_percent: int = 15
    passthrough: str = PASSTHROUGH
    prefetch: str = PREFETCH
    threads: int = 2
    hang_limit_ms: int = 10_000
    unprivileged_port: bool = False
    idmap: bool = False
    log_level: str = "info"
    network: str = KEEPERS_NETWORK
    fuse_features: str = RUNNING_KERNELS

    def given(self) -> dict[str, bool | int | str]:
        """Field name -> value of those that differ from the default, for records."""
        return {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if getattr(self, field.name) != field.default
        }

    def source_with_ports(self, source: Source) -> Source:
        """``source`` with the ports that were given as options; INVALID_ARGUMENT if its URL has others."""
        return source.with_ports(port=self.port, mount_port=self.mount_port)

    def daemon_config(self, source: Source | Sources) -> efc_pb2.DaemonConfig:
        """What the daemon of ``source`` is told, or of several sources."""
        source = source.with_ports(port=self.port, mount_port=self.mount_port)
        return efc_pb2.DaemonConfig(
            source=source_to_wire(source) if isinstance(source, Source) else None,
            sources=source.to_wire() if isinstance(source, Sources) else (),
            connections=self.connections,
            read_only=self.read_only,
            soft=self.soft,
            timeout_ms=self.timeout_ms if self.soft else 0,
            attr_ttl_ms=self.attr_ttl_ms,
            entry_ttl_ms=self.entry_ttl_ms,
            read_ahead_kib=self.read_ahead_kib,
            uncommitted_mib=self.uncommitted_mib,
            metadata_mib=self.metadata_mib,
            memory_max_mib=self.memory_max_mib,
            threads=self.threads,
            hang_limit_ms=self.hang_limit_ms,
            unprivileged_port=self.unprivileged_port,
            idmap=self.idmap,
            log_level=self.log_level,
            network="" if self.network == KEEPERS_NETWORK else self.network,
            fuse_features="" if self.fuse_features == RUNNING_KERNELS else self.fuse_features,
            freshness=efc_pb2.FreshnessConfig(
                consistency="" if self.consistency == CLOSE_TO_OPEN else self.consistency,
                attr_ttl_max_ms=self.attr_ttl_max_ms,
                small_files=self.small_files,
            ),
            writing=efc_pb2.WritingConfig(write_behind_ms=self.write_behind_ms),
            cache=self._cache_config(),
            prefetch="" if self.prefetch == PREFETCH else self.prefetch,
        )

    def _cache_config(self) -> efc_pb2.CacheConfig | None:
        if not self.workers_key and not self.store_mib:
            return None
        return efc_pb2.CacheConfig(
            workers=self.workers,
            workers_key=self.workers_key,
            workers_tls=self.workers_tls,
            store_mib=self.store_mib,
            store_dir=self.store_dir,
            store_free_percent=self.store_free_percent if self.store_mib else 0,
            passthrough=self.passthrough if self.store_mib else "",
        )


_DEFAULTS: Mapping[str, bool | int | str] = vars(MountOptions())


def parse_list(text: str) -> list[tuple[str, str | None]]:
    """The items of ``-o a=b,c``, unchecked; an empty text has none."""
    return [parse_item(item) for item in text.split(",")] if text else []


def parse_item(item: str) -> tuple[str, str | None]:
    """One ``name=value`` or ``name`` (a mount flag of a PV, for example)."""
    name, equals, value = item.partition("=")
    return name, value if equals else None


def parse(items: Iterable[tuple[str, str | None]], *, origin: str) -> MountOptions:
    """Checks options; raises INVALID_ARGUMENT that names the option, the bad value and what is allowed.

    ``origin`` says for the message where they come from. An option may come twice only with the same meaning.
    """
    given = nfs_words.own_options(items, origin=origin)
    values = {option.field: value for option, value in _values(given, origin=origin)}
    _check_timeout("timeout_ms" in values, is_soft=bool(values.get("soft")), origin=origin)
    _check_caches(values, origin=origin)
    _check_small_files(values, origin=origin)
    return MountOptions(**values)  # type: ignore[arg-type]  # the table's fields and kinds are checked by a test


def changed(
    config: efc_pb2.DaemonConfig, items: Iterable[tuple[str, str | None]], *, origin: str
) -> efc_pb2.DaemonConfig:
    """``config`` with these options, and all others as they are; ``NAME=`` takes an option off, back to its default.

    Raises what :func:`parse` does, and INVALID_ARGUMENT for an option that a mounted dataset cannot change.
    """
    result = efc_pb2.DaemonConfig()
    result.CopyFrom(config)
    own = list(nfs_words.own_options(items, origin=origin, is_soft=config.soft))
    for option, value in _values(own, origin=origin, may_be_taken_off=True):
        if option.change is Change.NEW_MOUNT:
            raise invalid(f"option {option.name!r} in {origin} cannot change while mounted: unmount, and mount with it")
        setattr(_holder(result, option.field), option.field, value)
    given = {OPTIONS[one.name].field for one in own if one.value != ""}
    _check_timeout("timeout_ms" in given, is_soft=result.soft, origin=origin)
    if not result.soft:
        result.timeout_ms = 0
    elif not result.timeout_ms:
        result.timeout_ms = MountOptions().timeout_ms
    if result.prefetch == PREFETCH:
        result.prefetch = ""
    _leave_out_unused_caches(result, given)
    _check_caches(settings_of(result), origin=origin)
    return result


def _leave_out_unused_caches(config: efc_pb2.DaemonConfig, given: Set[str]) -> None:
    """Takes away what says nothing without a local store, or without any cache, unless it was given just now."""
    if not config.cache.store_mib:
        for name in {"store_dir", "store_free_percent", "passthrough"} - given:
            config.cache.ClearField(name)
    if not config.cache.ListFields():
        config.ClearField("cache")


def settings_of(config: efc_pb2.DaemonConfig) -> dict[str, bool | int | str]:
    """Field name -> value of all that is set in ``config``, but for sources; those of messages within included."""
    values: dict[str, bool | int | str] = {}
    for descriptor, value in config.ListFields():
        if descriptor.name in ("source", "sources"):
            continue
        within = value.ListFields() if isinstance(value, Message) else [(descriptor, value)]
        values |= {inner.name: set_value for inner, set_value in within}
    return values


def consistency_of(config: efc_pb2.DaemonConfig) -> str:
    """The consistency mode that ``config`` asks for, as it is written."""
    return config.freshness.consistency or CLOSE_TO_OPEN


def _holder(config: efc_pb2.DaemonConfig, name: str) -> Message:
    """``config`` itself, or the message in it that has the field."""
    for descriptor in config.DESCRIPTOR.fields:
        inner = descriptor.message_type
        if inner is not None and not descriptor.is_repeated and name in inner.fields_by_name:
            return getattr(config, descriptor.name)  # type: ignore[no-any-return]
    return config


def own_words(options: Mapping[str, str], *, origin: str) -> dict[str, str]:
    """Options that came as a map, in words of the table only, for whoever knows no others: records, and older nodes.

    Raises what :func:`parse` does. An empty value is a flag without one (``ro: ""``).
    """
    items = [(name, value or None) for name, value in options.items()]
    parse(items, origin=origin)
    given = nfs_words.own_options(items, origin=origin)
    return {own.name: options.get(own.name, "true" if own.value is None else own.value) for own in given}


def is_option(name: str) -> bool:
    """Whether ``name`` is a word of the table, or one of nfs(5) about which something can be said."""
    return name in OPTIONS or nfs_words.word_of(name) is not None


def _values(
    given: Iterable[nfs_words.OwnOption], *, origin: str, may_be_taken_off: bool = False
) -> Iterator[tuple[Option, bool | int | str]]:
    """Each option that is given, once, and its value; if it may be taken off, an empty one is its default."""
    values: dict[str, tuple[str, Option, bool | int | str]] = {}
    for own in given:
        option = OPTIONS.get(own.name)
        if not own.name:
            raise invalid(f"there is an empty option in {origin}: a comma too many?")
        if option is None:
            raise unknown(own.name, known=OPTIONS, also=nfs_words.WORDS, noun="option", origin=origin)
        is_taken_off = may_be_taken_off and own.value == ""
        value = _DEFAULTS[option.field] if is_taken_off else value_of(option, own.value, word=own.word, origin=origin)
        before, _, former = values.setdefault(option.field, (own.word, option, value))
        if former != value:
            raise invalid(f"option {own.word!r} in {origin} contradicts {before!r} given before it")
    for _, option, value in values.values():
        yield option, value


def _check_timeout(has_timeout: bool, *, is_soft: bool, origin: str) -> None:  # noqa: FBT001
    if has_timeout and not is_soft:
        raise invalid(f"option 'timeout' in {origin} needs 'soft': without it operations wait until the NAS answers")


def _check_caches(values: Mapping[str, bool | int | str], *, origin: str) -> None:
    if values.get("workers") and not values.get("workers_key"):
        raise invalid(f"option 'workers' in {origin} needs 'workers-key': blocks at workers are encrypted with a key")
    if values.get("store_dir") and not values.get("store_mib"):
        raise invalid(f"option 'cache-dir' in {origin} needs 'cache-size': without it there is no local store")


def _check_small_files(values: Mapping[str, bool | int | str], *, origin: str) -> None:
    if not values.get("small_files"):
        return
    if not values.get("read_only"):
        raise invalid(f"option 'small-files' in {origin} needs 'ro': nobody may write through this mount; add ro")
    if values.get("consistency", CLOSE_TO_OPEN) == CLOSE_TO_OPEN:
        message = (
            f"option 'small-files' in {origin} needs 'consistency=bounded' or 'consistency=sealed': "
            "with cto each open asks the NAS, which small-files does without"
        )
        raise invalid(message)
