from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Configuration(_message.Message):
    __slots__ = ("revision", "dataset", "uid", "mounts", "workers", "orders", "owner_uid", "owner_gid", "walk_every_ms", "checkpoint")
    REVISION_FIELD_NUMBER: _ClassVar[int]
    DATASET_FIELD_NUMBER: _ClassVar[int]
    UID_FIELD_NUMBER: _ClassVar[int]
    MOUNTS_FIELD_NUMBER: _ClassVar[int]
    WORKERS_FIELD_NUMBER: _ClassVar[int]
    ORDERS_FIELD_NUMBER: _ClassVar[int]
    OWNER_UID_FIELD_NUMBER: _ClassVar[int]
    OWNER_GID_FIELD_NUMBER: _ClassVar[int]
    WALK_EVERY_MS_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    revision: int
    dataset: str
    uid: str
    mounts: _containers.RepeatedCompositeFieldContainer[SourceMount]
    workers: _containers.RepeatedCompositeFieldContainer[Worker]
    orders: Orders
    owner_uid: int
    owner_gid: int
    walk_every_ms: int
    checkpoint: bytes
    def __init__(self, revision: _Optional[int] = ..., dataset: _Optional[str] = ..., uid: _Optional[str] = ..., mounts: _Optional[_Iterable[_Union[SourceMount, _Mapping]]] = ..., workers: _Optional[_Iterable[_Union[Worker, _Mapping]]] = ..., orders: _Optional[_Union[Orders, _Mapping]] = ..., owner_uid: _Optional[int] = ..., owner_gid: _Optional[int] = ..., walk_every_ms: _Optional[int] = ..., checkpoint: _Optional[bytes] = ...) -> None: ...

class ConfigureReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class SourceMount(_message.Message):
    __slots__ = ("source", "path", "read_only")
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    READ_ONLY_FIELD_NUMBER: _ClassVar[int]
    source: str
    path: str
    read_only: bool
    def __init__(self, source: _Optional[str] = ..., path: _Optional[str] = ..., read_only: _Optional[bool] = ...) -> None: ...

class Worker(_message.Message):
    __slots__ = ("name", "address", "weight", "capacity_bytes")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    CAPACITY_BYTES_FIELD_NUMBER: _ClassVar[int]
    name: str
    address: str
    weight: int
    capacity_bytes: int
    def __init__(self, name: _Optional[str] = ..., address: _Optional[str] = ..., weight: _Optional[int] = ..., capacity_bytes: _Optional[int] = ...) -> None: ...

class WatchFiguresRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Figures(_message.Message):
    __slots__ = ("revision", "totals", "workers", "read", "nodes", "source")
    REVISION_FIELD_NUMBER: _ClassVar[int]
    TOTALS_FIELD_NUMBER: _ClassVar[int]
    WORKERS_FIELD_NUMBER: _ClassVar[int]
    READ_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    revision: int
    totals: Totals
    workers: _containers.RepeatedCompositeFieldContainer[WorkerFigures]
    read: ReadFigures
    nodes: _containers.RepeatedCompositeFieldContainer[NodeFigures]
    source: Reachability
    def __init__(self, revision: _Optional[int] = ..., totals: _Optional[_Union[Totals, _Mapping]] = ..., workers: _Optional[_Iterable[_Union[WorkerFigures, _Mapping]]] = ..., read: _Optional[_Union[ReadFigures, _Mapping]] = ..., nodes: _Optional[_Iterable[_Union[NodeFigures, _Mapping]]] = ..., source: _Optional[_Union[Reachability, _Mapping]] = ...) -> None: ...

class Totals(_message.Message):
    __slots__ = ("bytes", "files", "known", "directories_done", "checkpoint", "reason")
    BYTES_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    KNOWN_FIELD_NUMBER: _ClassVar[int]
    DIRECTORIES_DONE_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    bytes: int
    files: int
    known: bool
    directories_done: int
    checkpoint: bytes
    reason: str
    def __init__(self, bytes: _Optional[int] = ..., files: _Optional[int] = ..., known: _Optional[bool] = ..., directories_done: _Optional[int] = ..., checkpoint: _Optional[bytes] = ..., reason: _Optional[str] = ...) -> None: ...

class WorkerFigures(_message.Message):
    __slots__ = ("name", "cached_bytes", "capacity_bytes", "reachable")
    NAME_FIELD_NUMBER: _ClassVar[int]
    CACHED_BYTES_FIELD_NUMBER: _ClassVar[int]
    CAPACITY_BYTES_FIELD_NUMBER: _ClassVar[int]
    REACHABLE_FIELD_NUMBER: _ClassVar[int]
    name: str
    cached_bytes: int
    capacity_bytes: int
    reachable: bool
    def __init__(self, name: _Optional[str] = ..., cached_bytes: _Optional[int] = ..., capacity_bytes: _Optional[int] = ..., reachable: _Optional[bool] = ...) -> None: ...

class ReadFigures(_message.Message):
    __slots__ = ("total", "from_node", "from_workers")
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    FROM_NODE_FIELD_NUMBER: _ClassVar[int]
    FROM_WORKERS_FIELD_NUMBER: _ClassVar[int]
    total: int
    from_node: int
    from_workers: int
    def __init__(self, total: _Optional[int] = ..., from_node: _Optional[int] = ..., from_workers: _Optional[int] = ...) -> None: ...

class NodeFigures(_message.Message):
    __slots__ = ("node", "volumes", "serving", "connected", "conditions", "sources")
    NODE_FIELD_NUMBER: _ClassVar[int]
    VOLUMES_FIELD_NUMBER: _ClassVar[int]
    SERVING_FIELD_NUMBER: _ClassVar[int]
    CONNECTED_FIELD_NUMBER: _ClassVar[int]
    CONDITIONS_FIELD_NUMBER: _ClassVar[int]
    SOURCES_FIELD_NUMBER: _ClassVar[int]
    node: str
    volumes: int
    serving: bool
    connected: bool
    conditions: _containers.RepeatedScalarFieldContainer[str]
    sources: str
    def __init__(self, node: _Optional[str] = ..., volumes: _Optional[int] = ..., serving: _Optional[bool] = ..., connected: _Optional[bool] = ..., conditions: _Optional[_Iterable[str]] = ..., sources: _Optional[str] = ...) -> None: ...

class Reachability(_message.Message):
    __slots__ = ("known", "reachable", "reason")
    KNOWN_FIELD_NUMBER: _ClassVar[int]
    REACHABLE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    known: bool
    reachable: bool
    reason: str
    def __init__(self, known: _Optional[bool] = ..., reachable: _Optional[bool] = ..., reason: _Optional[str] = ...) -> None: ...

class NodeReport(_message.Message):
    __slots__ = ("node", "volumes", "serving", "daemon_session", "bytes_read", "bytes_from_node", "bytes_from_workers", "changes", "conditions", "sources")
    NODE_FIELD_NUMBER: _ClassVar[int]
    VOLUMES_FIELD_NUMBER: _ClassVar[int]
    SERVING_FIELD_NUMBER: _ClassVar[int]
    DAEMON_SESSION_FIELD_NUMBER: _ClassVar[int]
    BYTES_READ_FIELD_NUMBER: _ClassVar[int]
    BYTES_FROM_NODE_FIELD_NUMBER: _ClassVar[int]
    BYTES_FROM_WORKERS_FIELD_NUMBER: _ClassVar[int]
    CHANGES_FIELD_NUMBER: _ClassVar[int]
    CONDITIONS_FIELD_NUMBER: _ClassVar[int]
    SOURCES_FIELD_NUMBER: _ClassVar[int]
    node: str
    volumes: int
    serving: bool
    daemon_session: str
    bytes_read: int
    bytes_from_node: int
    bytes_from_workers: int
    changes: int
    conditions: _containers.RepeatedScalarFieldContainer[str]
    sources: str
    def __init__(self, node: _Optional[str] = ..., volumes: _Optional[int] = ..., serving: _Optional[bool] = ..., daemon_session: _Optional[str] = ..., bytes_read: _Optional[int] = ..., bytes_from_node: _Optional[int] = ..., bytes_from_workers: _Optional[int] = ..., changes: _Optional[int] = ..., conditions: _Optional[_Iterable[str]] = ..., sources: _Optional[str] = ...) -> None: ...

class Orders(_message.Message):
    __slots__ = ("revision", "workers", "options", "secrets", "retired", "keep_daemon", "sources")
    class OptionsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    REVISION_FIELD_NUMBER: _ClassVar[int]
    WORKERS_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    SECRETS_FIELD_NUMBER: _ClassVar[int]
    RETIRED_FIELD_NUMBER: _ClassVar[int]
    KEEP_DAEMON_FIELD_NUMBER: _ClassVar[int]
    SOURCES_FIELD_NUMBER: _ClassVar[int]
    revision: int
    workers: _containers.RepeatedCompositeFieldContainer[Worker]
    options: _containers.ScalarMap[str, str]
    secrets: Secrets
    retired: bool
    keep_daemon: bool
    sources: _containers.RepeatedCompositeFieldContainer[SourceMount]
    def __init__(self, revision: _Optional[int] = ..., workers: _Optional[_Iterable[_Union[Worker, _Mapping]]] = ..., options: _Optional[_Mapping[str, str]] = ..., secrets: _Optional[_Union[Secrets, _Mapping]] = ..., retired: _Optional[bool] = ..., keep_daemon: _Optional[bool] = ..., sources: _Optional[_Iterable[_Union[SourceMount, _Mapping]]] = ...) -> None: ...

class Secrets(_message.Message):
    __slots__ = ("block_key", "authority", "certificate", "private_key")
    BLOCK_KEY_FIELD_NUMBER: _ClassVar[int]
    AUTHORITY_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    PRIVATE_KEY_FIELD_NUMBER: _ClassVar[int]
    block_key: bytes
    authority: bytes
    certificate: bytes
    private_key: bytes
    def __init__(self, block_key: _Optional[bytes] = ..., authority: _Optional[bytes] = ..., certificate: _Optional[bytes] = ..., private_key: _Optional[bytes] = ...) -> None: ...
