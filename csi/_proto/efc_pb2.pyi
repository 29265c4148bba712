from google.protobuf import descriptor_pb2 as _descriptor_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Change(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CHANGE_UNSPECIFIED: _ClassVar[Change]
    LIVE: _ClassVar[Change]
    NEW_DAEMON: _ClassVar[Change]
    NEW_MOUNT: _ClassVar[Change]
CHANGE_UNSPECIFIED: Change
LIVE: Change
NEW_DAEMON: Change
NEW_MOUNT: Change
CHANGE_FIELD_NUMBER: _ClassVar[int]
change: _descriptor.FieldDescriptor
OPTION_NAME_FIELD_NUMBER: _ClassVar[int]
option_name: _descriptor.FieldDescriptor

class KeeperRequest(_message.Message):
    __slots__ = ("mount", "unmount", "status", "hold", "adopt", "install", "upgrade", "find_root")
    MOUNT_FIELD_NUMBER: _ClassVar[int]
    UNMOUNT_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    HOLD_FIELD_NUMBER: _ClassVar[int]
    ADOPT_FIELD_NUMBER: _ClassVar[int]
    INSTALL_FIELD_NUMBER: _ClassVar[int]
    UPGRADE_FIELD_NUMBER: _ClassVar[int]
    FIND_ROOT_FIELD_NUMBER: _ClassVar[int]
    mount: MountRequest
    unmount: UnmountRequest
    status: StatusRequest
    hold: HoldRequest
    adopt: AdoptRequest
    install: InstallRequest
    upgrade: UpgradeRequest
    find_root: FindRootRequest
    def __init__(self, mount: _Optional[_Union[MountRequest, _Mapping]] = ..., unmount: _Optional[_Union[UnmountRequest, _Mapping]] = ..., status: _Optional[_Union[StatusRequest, _Mapping]] = ..., hold: _Optional[_Union[HoldRequest, _Mapping]] = ..., adopt: _Optional[_Union[AdoptRequest, _Mapping]] = ..., install: _Optional[_Union[InstallRequest, _Mapping]] = ..., upgrade: _Optional[_Union[UpgradeRequest, _Mapping]] = ..., find_root: _Optional[_Union[FindRootRequest, _Mapping]] = ...) -> None: ...

class KeeperReply(_message.Message):
    __slots__ = ("error", "mount", "unmount", "status", "hold", "adopt", "install", "upgrade", "find_root")
    ERROR_FIELD_NUMBER: _ClassVar[int]
    MOUNT_FIELD_NUMBER: _ClassVar[int]
    UNMOUNT_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    HOLD_FIELD_NUMBER: _ClassVar[int]
    ADOPT_FIELD_NUMBER: _ClassVar[int]
    INSTALL_FIELD_NUMBER: _ClassVar[int]
    UPGRADE_FIELD_NUMBER: _ClassVar[int]
    FIND_ROOT_FIELD_NUMBER: _ClassVar[int]
    error: Error
    mount: MountReply
    unmount: UnmountReply
    status: StatusReply
    hold: HoldReply
    adopt: AdoptReply
    install: InstallReply
    upgrade: UpgradeReply
    find_root: FindRootReply
    def __init__(self, error: _Optional[_Union[Error, _Mapping]] = ..., mount: _Optional[_Union[MountReply, _Mapping]] = ..., unmount: _Optional[_Union[UnmountReply, _Mapping]] = ..., status: _Optional[_Union[StatusReply, _Mapping]] = ..., hold: _Optional[_Union[HoldReply, _Mapping]] = ..., adopt: _Optional[_Union[AdoptReply, _Mapping]] = ..., install: _Optional[_Union[InstallReply, _Mapping]] = ..., upgrade: _Optional[_Union[UpgradeReply, _Mapping]] = ..., find_root: _Optional[_Union[FindRootReply, _Mapping]] = ...) -> None: ...

class MountRequest(_message.Message):
    __slots__ = ("target", "config", "time_limit_ms")
    TARGET_FIELD_NUMBER: _ClassVar[int]
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    TIME_LIMIT_MS_FIELD_NUMBER: _ClassVar[int]
    target: str
    config: DaemonConfig
    time_limit_ms: int
    def __init__(self, target: _Optional[str] = ..., config: _Optional[_Union[DaemonConfig, _Mapping]] = ..., time_limit_ms: _Optional[int] = ...) -> None: ...

class MountReply(_message.Message):
    __slots__ = ("status",)
    STATUS_FIELD_NUMBER: _ClassVar[int]
    status: MountStatus
    def __init__(self, status: _Optional[_Union[MountStatus, _Mapping]] = ...) -> None: ...

class UnmountRequest(_message.Message):
    __slots__ = ("target", "force")
    TARGET_FIELD_NUMBER: _ClassVar[int]
    FORCE_FIELD_NUMBER: _ClassVar[int]
    target: str
    force: bool
    def __init__(self, target: _Optional[str] = ..., force: _Optional[bool] = ...) -> None: ...

class UnmountReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StatusRequest(_message.Message):
    __slots__ = ("target", "by_subsystem", "after")
    TARGET_FIELD_NUMBER: _ClassVar[int]
    BY_SUBSYSTEM_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    target: str
    by_subsystem: bool
    after: str
    def __init__(self, target: _Optional[str] = ..., by_subsystem: _Optional[bool] = ..., after: _Optional[str] = ...) -> None: ...

class StatusReply(_message.Message):
    __slots__ = ("mounts", "keeper_pid", "keeper_version", "program_version", "last")
    MOUNTS_FIELD_NUMBER: _ClassVar[int]
    KEEPER_PID_FIELD_NUMBER: _ClassVar[int]
    KEEPER_VERSION_FIELD_NUMBER: _ClassVar[int]
    PROGRAM_VERSION_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    mounts: _containers.RepeatedCompositeFieldContainer[MountStatus]
    keeper_pid: int
    keeper_version: str
    program_version: str
    last: str
    def __init__(self, mounts: _Optional[_Iterable[_Union[MountStatus, _Mapping]]] = ..., keeper_pid: _Optional[int] = ..., keeper_version: _Optional[str] = ..., program_version: _Optional[str] = ..., last: _Optional[str] = ...) -> None: ...

class HoldRequest(_message.Message):
    __slots__ = ("target",)
    TARGET_FIELD_NUMBER: _ClassVar[int]
    target: str
    def __init__(self, target: _Optional[str] = ...) -> None: ...

class HoldReply(_message.Message):
    __slots__ = ("status",)
    STATUS_FIELD_NUMBER: _ClassVar[int]
    status: MountStatus
    def __init__(self, status: _Optional[_Union[MountStatus, _Mapping]] = ...) -> None: ...

class AdoptRequest(_message.Message):
    __slots__ = ("status",)
    STATUS_FIELD_NUMBER: _ClassVar[int]
    status: MountStatus
    def __init__(self, status: _Optional[_Union[MountStatus, _Mapping]] = ...) -> None: ...

class AdoptReply(_message.Message):
    __slots__ = ("status",)
    STATUS_FIELD_NUMBER: _ClassVar[int]
    status: MountStatus
    def __init__(self, status: _Optional[_Union[MountStatus, _Mapping]] = ...) -> None: ...

class InstallRequest(_message.Message):
    __slots__ = ("version",)
    VERSION_FIELD_NUMBER: _ClassVar[int]
    version: str
    def __init__(self, version: _Optional[str] = ...) -> None: ...

class InstallReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class UpgradeRequest(_message.Message):
    __slots__ = ("target", "options", "base", "in_place")
    TARGET_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    IN_PLACE_FIELD_NUMBER: _ClassVar[int]
    target: str
    options: DaemonConfig
    base: DaemonConfig
    in_place: bool
    def __init__(self, target: _Optional[str] = ..., options: _Optional[_Union[DaemonConfig, _Mapping]] = ..., base: _Optional[_Union[DaemonConfig, _Mapping]] = ..., in_place: _Optional[bool] = ...) -> None: ...

class UpgradeReply(_message.Message):
    __slots__ = ("status",)
    STATUS_FIELD_NUMBER: _ClassVar[int]
    status: MountStatus
    def __init__(self, status: _Optional[_Union[MountStatus, _Mapping]] = ...) -> None: ...

class FindRootRequest(_message.Message):
    __slots__ = ("target", "time_limit_ms")
    TARGET_FIELD_NUMBER: _ClassVar[int]
    TIME_LIMIT_MS_FIELD_NUMBER: _ClassVar[int]
    target: str
    time_limit_ms: int
    def __init__(self, target: _Optional[str] = ..., time_limit_ms: _Optional[int] = ...) -> None: ...

class FindRootReply(_message.Message):
    __slots__ = ("root",)
    ROOT_FIELD_NUMBER: _ClassVar[int]
    root: FoundRoot
    def __init__(self, root: _Optional[_Union[FoundRoot, _Mapping]] = ...) -> None: ...

class MountStatus(_message.Message):
    __slots__ = ("target", "config", "pid", "version", "state", "restarts", "reason", "connection", "mounted_at_unix_ms", "stats", "cgroup", "uid", "options", "live_fields", "store", "store_missing", "upgrades", "network_trouble")
    class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        STATE_UNSPECIFIED: _ClassVar[MountStatus.State]
        STARTING: _ClassVar[MountStatus.State]
        SERVING: _ClassVar[MountStatus.State]
        RESTARTING: _ClassVar[MountStatus.State]
        UNRESPONSIVE_NAS: _ClassVar[MountStatus.State]
        ABORTED: _ClassVar[MountStatus.State]
    STATE_UNSPECIFIED: MountStatus.State
    STARTING: MountStatus.State
    SERVING: MountStatus.State
    RESTARTING: MountStatus.State
    UNRESPONSIVE_NAS: MountStatus.State
    ABORTED: MountStatus.State
    TARGET_FIELD_NUMBER: _ClassVar[int]
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    RESTARTS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    CONNECTION_FIELD_NUMBER: _ClassVar[int]
    MOUNTED_AT_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    STATS_FIELD_NUMBER: _ClassVar[int]
    CGROUP_FIELD_NUMBER: _ClassVar[int]
    UID_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    LIVE_FIELDS_FIELD_NUMBER: _ClassVar[int]
    STORE_FIELD_NUMBER: _ClassVar[int]
    STORE_MISSING_FIELD_NUMBER: _ClassVar[int]
    UPGRADES_FIELD_NUMBER: _ClassVar[int]
    NETWORK_TROUBLE_FIELD_NUMBER: _ClassVar[int]
    target: str
    config: DaemonConfig
    pid: int
    version: str
    state: MountStatus.State
    restarts: int
    reason: str
    connection: int
    mounted_at_unix_ms: int
    stats: DaemonStats
    cgroup: str
    uid: int
    options: DaemonConfig
    live_fields: _containers.RepeatedScalarFieldContainer[int]
    store: str
    store_missing: str
    upgrades: int
    network_trouble: str
    def __init__(self, target: _Optional[str] = ..., config: _Optional[_Union[DaemonConfig, _Mapping]] = ..., pid: _Optional[int] = ..., version: _Optional[str] = ..., state: _Optional[_Union[MountStatus.State, str]] = ..., restarts: _Optional[int] = ..., reason: _Optional[str] = ..., connection: _Optional[int] = ..., mounted_at_unix_ms: _Optional[int] = ..., stats: _Optional[_Union[DaemonStats, _Mapping]] = ..., cgroup: _Optional[str] = ..., uid: _Optional[int] = ..., options: _Optional[_Union[DaemonConfig, _Mapping]] = ..., live_fields: _Optional[_Iterable[int]] = ..., store: _Optional[str] = ..., store_missing: _Optional[str] = ..., upgrades: _Optional[int] = ..., network_trouble: _Optional[str] = ...) -> None: ...

class Error(_message.Message):
    __slots__ = ("code", "message")
    class Code(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        CODE_UNSPECIFIED: _ClassVar[Error.Code]
        INVALID_ARGUMENT: _ClassVar[Error.Code]
        NOT_FOUND: _ClassVar[Error.Code]
        PERMISSION_DENIED: _ClassVar[Error.Code]
        UNAVAILABLE: _ClassVar[Error.Code]
        FAILED_PRECONDITION: _ClassVar[Error.Code]
        ALREADY_EXISTS: _ClassVar[Error.Code]
        RESOURCE_EXHAUSTED: _ClassVar[Error.Code]
        DEADLINE_EXCEEDED: _ClassVar[Error.Code]
        INTERNAL: _ClassVar[Error.Code]
    CODE_UNSPECIFIED: Error.Code
    INVALID_ARGUMENT: Error.Code
    NOT_FOUND: Error.Code
    PERMISSION_DENIED: Error.Code
    UNAVAILABLE: Error.Code
    FAILED_PRECONDITION: Error.Code
    ALREADY_EXISTS: Error.Code
    RESOURCE_EXHAUSTED: Error.Code
    DEADLINE_EXCEEDED: Error.Code
    INTERNAL: Error.Code
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    code: Error.Code
    message: str
    def __init__(self, code: _Optional[_Union[Error.Code, str]] = ..., message: _Optional[str] = ...) -> None: ...

class ToDaemon(_message.Message):
    __slots__ = ("start", "mounted", "report", "stop", "resend", "drain", "find_root", "configure", "backing_opened")
    START_FIELD_NUMBER: _ClassVar[int]
    MOUNTED_FIELD_NUMBER: _ClassVar[int]
    REPORT_FIELD_NUMBER: _ClassVar[int]
    STOP_FIELD_NUMBER: _ClassVar[int]
    RESEND_FIELD_NUMBER: _ClassVar[int]
    DRAIN_FIELD_NUMBER: _ClassVar[int]
    FIND_ROOT_FIELD_NUMBER: _ClassVar[int]
    CONFIGURE_FIELD_NUMBER: _ClassVar[int]
    BACKING_OPENED_FIELD_NUMBER: _ClassVar[int]
    start: Start
    mounted: Mounted
    report: ReportRequest
    stop: Stop
    resend: Resend
    drain: Drain
    find_root: FindRoot
    configure: Configure
    backing_opened: BackingOpened
    def __init__(self, start: _Optional[_Union[Start, _Mapping]] = ..., mounted: _Optional[_Union[Mounted, _Mapping]] = ..., report: _Optional[_Union[ReportRequest, _Mapping]] = ..., stop: _Optional[_Union[Stop, _Mapping]] = ..., resend: _Optional[_Union[Resend, _Mapping]] = ..., drain: _Optional[_Union[Drain, _Mapping]] = ..., find_root: _Optional[_Union[FindRoot, _Mapping]] = ..., configure: _Optional[_Union[Configure, _Mapping]] = ..., backing_opened: _Optional[_Union[BackingOpened, _Mapping]] = ...) -> None: ...

class ToKeeper(_message.Message):
    __slots__ = ("failed", "connected", "ready", "stats", "session", "root", "configured", "backing_open", "backing_close", "backings_kept")
    FAILED_FIELD_NUMBER: _ClassVar[int]
    CONNECTED_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    STATS_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    ROOT_FIELD_NUMBER: _ClassVar[int]
    CONFIGURED_FIELD_NUMBER: _ClassVar[int]
    BACKING_OPEN_FIELD_NUMBER: _ClassVar[int]
    BACKING_CLOSE_FIELD_NUMBER: _ClassVar[int]
    BACKINGS_KEPT_FIELD_NUMBER: _ClassVar[int]
    failed: Error
    connected: Connected
    ready: Ready
    stats: DaemonStats
    session: MountStatus
    root: FoundRoot
    configured: Configured
    backing_open: BackingOpen
    backing_close: BackingClose
    backings_kept: BackingsKept
    def __init__(self, failed: _Optional[_Union[Error, _Mapping]] = ..., connected: _Optional[_Union[Connected, _Mapping]] = ..., ready: _Optional[_Union[Ready, _Mapping]] = ..., stats: _Optional[_Union[DaemonStats, _Mapping]] = ..., session: _Optional[_Union[MountStatus, _Mapping]] = ..., root: _Optional[_Union[FoundRoot, _Mapping]] = ..., configured: _Optional[_Union[Configured, _Mapping]] = ..., backing_open: _Optional[_Union[BackingOpen, _Mapping]] = ..., backing_close: _Optional[_Union[BackingClose, _Mapping]] = ..., backings_kept: _Optional[_Union[BackingsKept, _Mapping]] = ...) -> None: ...

class Start(_message.Message):
    __slots__ = ("config", "uid", "session", "predecessor_remains", "memory_max_bytes", "workers", "workers_file", "has_store")
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    UID_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    PREDECESSOR_REMAINS_FIELD_NUMBER: _ClassVar[int]
    MEMORY_MAX_BYTES_FIELD_NUMBER: _ClassVar[int]
    WORKERS_FIELD_NUMBER: _ClassVar[int]
    WORKERS_FILE_FIELD_NUMBER: _ClassVar[int]
    HAS_STORE_FIELD_NUMBER: _ClassVar[int]
    config: DaemonConfig
    uid: int
    session: MountStatus
    predecessor_remains: bool
    memory_max_bytes: int
    workers: WorkersSecrets
    workers_file: bytes
    has_store: bool
    def __init__(self, config: _Optional[_Union[DaemonConfig, _Mapping]] = ..., uid: _Optional[int] = ..., session: _Optional[_Union[MountStatus, _Mapping]] = ..., predecessor_remains: _Optional[bool] = ..., memory_max_bytes: _Optional[int] = ..., workers: _Optional[_Union[WorkersSecrets, _Mapping]] = ..., workers_file: _Optional[bytes] = ..., has_store: _Optional[bool] = ...) -> None: ...

class WorkersSecrets(_message.Message):
    __slots__ = ("key", "authority", "certificate", "private_key", "server_name")
    KEY_FIELD_NUMBER: _ClassVar[int]
    AUTHORITY_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    PRIVATE_KEY_FIELD_NUMBER: _ClassVar[int]
    SERVER_NAME_FIELD_NUMBER: _ClassVar[int]
    key: bytes
    authority: bytes
    certificate: bytes
    private_key: bytes
    server_name: bytes
    def __init__(self, key: _Optional[bytes] = ..., authority: _Optional[bytes] = ..., certificate: _Optional[bytes] = ..., private_key: _Optional[bytes] = ..., server_name: _Optional[bytes] = ...) -> None: ...

class Connected(_message.Message):
    __slots__ = ("root_mode",)
    ROOT_MODE_FIELD_NUMBER: _ClassVar[int]
    root_mode: int
    def __init__(self, root_mode: _Optional[int] = ...) -> None: ...

class Mounted(_message.Message):
    __slots__ = ("connection",)
    CONNECTION_FIELD_NUMBER: _ClassVar[int]
    connection: int
    def __init__(self, connection: _Optional[int] = ...) -> None: ...

class Ready(_message.Message):
    __slots__ = ("version", "beats", "live_fields")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    BEATS_FIELD_NUMBER: _ClassVar[int]
    LIVE_FIELDS_FIELD_NUMBER: _ClassVar[int]
    version: str
    beats: bool
    live_fields: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, version: _Optional[str] = ..., beats: _Optional[bool] = ..., live_fields: _Optional[_Iterable[int]] = ...) -> None: ...

class Resend(_message.Message):
    __slots__ = ("predecessor_remains",)
    PREDECESSOR_REMAINS_FIELD_NUMBER: _ClassVar[int]
    predecessor_remains: bool
    def __init__(self, predecessor_remains: _Optional[bool] = ...) -> None: ...

class Drain(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Configure(_message.Message):
    __slots__ = ("options", "workers_file")
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    WORKERS_FILE_FIELD_NUMBER: _ClassVar[int]
    options: DaemonConfig
    workers_file: bytes
    def __init__(self, options: _Optional[_Union[DaemonConfig, _Mapping]] = ..., workers_file: _Optional[bytes] = ...) -> None: ...

class Configured(_message.Message):
    __slots__ = ("error",)
    ERROR_FIELD_NUMBER: _ClassVar[int]
    error: Error
    def __init__(self, error: _Optional[_Union[Error, _Mapping]] = ...) -> None: ...

class ReportRequest(_message.Message):
    __slots__ = ("opens_backing",)
    OPENS_BACKING_FIELD_NUMBER: _ClassVar[int]
    opens_backing: bool
    def __init__(self, opens_backing: _Optional[bool] = ...) -> None: ...

class BackingOpen(_message.Message):
    __slots__ = ("token",)
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    token: int
    def __init__(self, token: _Optional[int] = ...) -> None: ...

class BackingOpened(_message.Message):
    __slots__ = ("token", "id", "error")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    token: int
    id: int
    error: str
    def __init__(self, token: _Optional[int] = ..., id: _Optional[int] = ..., error: _Optional[str] = ...) -> None: ...

class BackingClose(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: int
    def __init__(self, id: _Optional[int] = ...) -> None: ...

class BackingsKept(_message.Message):
    __slots__ = ("ids",)
    IDS_FIELD_NUMBER: _ClassVar[int]
    ids: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, ids: _Optional[_Iterable[int]] = ...) -> None: ...

class FindRoot(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class FoundRoot(_message.Message):
    __slots__ = ("served", "found", "error")
    SERVED_FIELD_NUMBER: _ClassVar[int]
    FOUND_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    served: bytes
    found: bytes
    error: Error
    def __init__(self, served: _Optional[bytes] = ..., found: _Optional[bytes] = ..., error: _Optional[_Union[Error, _Mapping]] = ...) -> None: ...

class Stop(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DaemonConfig(_message.Message):
    __slots__ = ("source", "connections", "read_only", "soft", "timeout_ms", "attr_ttl_ms", "entry_ttl_ms", "read_ahead_kib", "uncommitted_mib", "threads", "unprivileged_port", "log_level", "no_splice", "idmap", "network", "hang_limit_ms", "fuse_features", "freshness", "writing", "cache", "metadata_mib", "memory_max_mib", "sources", "prefetch")
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    CONNECTIONS_FIELD_NUMBER: _ClassVar[int]
    READ_ONLY_FIELD_NUMBER: _ClassVar[int]
    SOFT_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_MS_FIELD_NUMBER: _ClassVar[int]
    ATTR_TTL_MS_FIELD_NUMBER: _ClassVar[int]
    ENTRY_TTL_MS_FIELD_NUMBER: _ClassVar[int]
    READ_AHEAD_KIB_FIELD_NUMBER: _ClassVar[int]
    UNCOMMITTED_MIB_FIELD_NUMBER: _ClassVar[int]
    THREADS_FIELD_NUMBER: _ClassVar[int]
    UNPRIVILEGED_PORT_FIELD_NUMBER: _ClassVar[int]
    LOG_LEVEL_FIELD_NUMBER: _ClassVar[int]
    NO_SPLICE_FIELD_NUMBER: _ClassVar[int]
    IDMAP_FIELD_NUMBER: _ClassVar[int]
    NETWORK_FIELD_NUMBER: _ClassVar[int]
    HANG_LIMIT_MS_FIELD_NUMBER: _ClassVar[int]
    FUSE_FEATURES_FIELD_NUMBER: _ClassVar[int]
    FRESHNESS_FIELD_NUMBER: _ClassVar[int]
    WRITING_FIELD_NUMBER: _ClassVar[int]
    CACHE_FIELD_NUMBER: _ClassVar[int]
    METADATA_MIB_FIELD_NUMBER: _ClassVar[int]
    MEMORY_MAX_MIB_FIELD_NUMBER: _ClassVar[int]
    SOURCES_FIELD_NUMBER: _ClassVar[int]
    PREFETCH_FIELD_NUMBER: _ClassVar[int]
    source: Source
    connections: int
    read_only: bool
    soft: bool
    timeout_ms: int
    attr_ttl_ms: int
    entry_ttl_ms: int
    read_ahead_kib: int
    uncommitted_mib: int
    threads: int
    unprivileged_port: bool
    log_level: str
    no_splice: bool
    idmap: bool
    network: str
    hang_limit_ms: int
    fuse_features: str
    freshness: FreshnessConfig
    writing: WritingConfig
    cache: CacheConfig
    metadata_mib: int
    memory_max_mib: int
    sources: _containers.RepeatedCompositeFieldContainer[MountedSource]
    prefetch: str
    def __init__(self, source: _Optional[_Union[Source, _Mapping]] = ..., connections: _Optional[int] = ..., read_only: _Optional[bool] = ..., soft: _Optional[bool] = ..., timeout_ms: _Optional[int] = ..., attr_ttl_ms: _Optional[int] = ..., entry_ttl_ms: _Optional[int] = ..., read_ahead_kib: _Optional[int] = ..., uncommitted_mib: _Optional[int] = ..., threads: _Optional[int] = ..., unprivileged_port: _Optional[bool] = ..., log_level: _Optional[str] = ..., no_splice: _Optional[bool] = ..., idmap: _Optional[bool] = ..., network: _Optional[str] = ..., hang_limit_ms: _Optional[int] = ..., fuse_features: _Optional[str] = ..., freshness: _Optional[_Union[FreshnessConfig, _Mapping]] = ..., writing: _Optional[_Union[WritingConfig, _Mapping]] = ..., cache: _Optional[_Union[CacheConfig, _Mapping]] = ..., metadata_mib: _Optional[int] = ..., memory_max_mib: _Optional[int] = ..., sources: _Optional[_Iterable[_Union[MountedSource, _Mapping]]] = ..., prefetch: _Optional[str] = ...) -> None: ...

class MountedSource(_message.Message):
    __slots__ = ("source", "path", "read_only")
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    READ_ONLY_FIELD_NUMBER: _ClassVar[int]
    source: Source
    path: str
    read_only: bool
    def __init__(self, source: _Optional[_Union[Source, _Mapping]] = ..., path: _Optional[str] = ..., read_only: _Optional[bool] = ...) -> None: ...

class FreshnessConfig(_message.Message):
    __slots__ = ("consistency", "attr_ttl_max_ms", "small_files")
    CONSISTENCY_FIELD_NUMBER: _ClassVar[int]
    ATTR_TTL_MAX_MS_FIELD_NUMBER: _ClassVar[int]
    SMALL_FILES_FIELD_NUMBER: _ClassVar[int]
    consistency: str
    attr_ttl_max_ms: int
    small_files: str
    def __init__(self, consistency: _Optional[str] = ..., attr_ttl_max_ms: _Optional[int] = ..., small_files: _Optional[str] = ...) -> None: ...

class WritingConfig(_message.Message):
    __slots__ = ("write_behind_ms",)
    WRITE_BEHIND_MS_FIELD_NUMBER: _ClassVar[int]
    write_behind_ms: int
    def __init__(self, write_behind_ms: _Optional[int] = ...) -> None: ...

class CacheConfig(_message.Message):
    __slots__ = ("workers", "workers_key", "workers_tls", "store_dir", "store_mib", "store_free_percent", "passthrough")
    WORKERS_FIELD_NUMBER: _ClassVar[int]
    WORKERS_KEY_FIELD_NUMBER: _ClassVar[int]
    WORKERS_TLS_FIELD_NUMBER: _ClassVar[int]
    STORE_DIR_FIELD_NUMBER: _ClassVar[int]
    STORE_MIB_FIELD_NUMBER: _ClassVar[int]
    STORE_FREE_PERCENT_FIELD_NUMBER: _ClassVar[int]
    PASSTHROUGH_FIELD_NUMBER: _ClassVar[int]
    workers: str
    workers_key: str
    workers_tls: str
    store_dir: str
    store_mib: int
    store_free_percent: int
    passthrough: str
    def __init__(self, workers: _Optional[str] = ..., workers_key: _Optional[str] = ..., workers_tls: _Optional[str] = ..., store_dir: _Optional[str] = ..., store_mib: _Optional[int] = ..., store_free_percent: _Optional[int] = ..., passthrough: _Optional[str] = ...) -> None: ...

class Source(_message.Message):
    __slots__ = ("host", "port", "mount_port", "path")
    HOST_FIELD_NUMBER: _ClassVar[int]
    PORT_FIELD_NUMBER: _ClassVar[int]
    MOUNT_PORT_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    host: str
    port: int
    mount_port: int
    path: str
    def __init__(self, host: _Optional[str] = ..., port: _Optional[int] = ..., mount_port: _Optional[int] = ..., path: _Optional[str] = ...) -> None: ...

class DaemonStats(_message.Message):
    __slots__ = ("uptime_ms", "resumed", "fuse", "nfs", "state", "metadata", "writing", "cache", "store", "passthrough", "prefetch", "latency", "sources", "fuse_requests", "nfs_calls", "nfs_retransmits", "nfs_reconnects", "bytes_read", "bytes_written", "nodes", "open_files", "uncommitted_bytes", "nas_responding", "oldest_call_ms", "bytes_spliced", "pipe_misfits", "nodes_max")
    UPTIME_MS_FIELD_NUMBER: _ClassVar[int]
    RESUMED_FIELD_NUMBER: _ClassVar[int]
    FUSE_FIELD_NUMBER: _ClassVar[int]
    NFS_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    WRITING_FIELD_NUMBER: _ClassVar[int]
    CACHE_FIELD_NUMBER: _ClassVar[int]
    STORE_FIELD_NUMBER: _ClassVar[int]
    PASSTHROUGH_FIELD_NUMBER: _ClassVar[int]
    PREFETCH_FIELD_NUMBER: _ClassVar[int]
    LATENCY_FIELD_NUMBER: _ClassVar[int]
    SOURCES_FIELD_NUMBER: _ClassVar[int]
    FUSE_REQUESTS_FIELD_NUMBER: _ClassVar[int]
    NFS_CALLS_FIELD_NUMBER: _ClassVar[int]
    NFS_RETRANSMITS_FIELD_NUMBER: _ClassVar[int]
    NFS_RECONNECTS_FIELD_NUMBER: _ClassVar[int]
    BYTES_READ_FIELD_NUMBER: _ClassVar[int]
    BYTES_WRITTEN_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    OPEN_FILES_FIELD_NUMBER: _ClassVar[int]
    UNCOMMITTED_BYTES_FIELD_NUMBER: _ClassVar[int]
    NAS_RESPONDING_FIELD_NUMBER: _ClassVar[int]
    OLDEST_CALL_MS_FIELD_NUMBER: _ClassVar[int]
    BYTES_SPLICED_FIELD_NUMBER: _ClassVar[int]
    PIPE_MISFITS_FIELD_NUMBER: _ClassVar[int]
    NODES_MAX_FIELD_NUMBER: _ClassVar[int]
    uptime_ms: int
    resumed: bool
    fuse: FuseStats
    nfs: NfsStats
    state: StateStats
    metadata: MetadataStats
    writing: WritingStats
    cache: CacheStats
    store: StoreStats
    passthrough: PassthroughStats
    prefetch: PrefetchStats
    latency: LatencyStats
    sources: _containers.RepeatedCompositeFieldContainer[SourceStats]
    fuse_requests: int
    nfs_calls: int
    nfs_retransmits: int
    nfs_reconnects: int
    bytes_read: int
    bytes_written: int
    nodes: int
    open_files: int
    uncommitted_bytes: int
    nas_responding: bool
    oldest_call_ms: int
    bytes_spliced: int
    pipe_misfits: int
    nodes_max: int
    def __init__(self, uptime_ms: _Optional[int] = ..., resumed: _Optional[bool] = ..., fuse: _Optional[_Union[FuseStats, _Mapping]] = ..., nfs: _Optional[_Union[NfsStats, _Mapping]] = ..., state: _Optional[_Union[StateStats, _Mapping]] = ..., metadata: _Optional[_Union[MetadataStats, _Mapping]] = ..., writing: _Optional[_Union[WritingStats, _Mapping]] = ..., cache: _Optional[_Union[CacheStats, _Mapping]] = ..., store: _Optional[_Union[StoreStats, _Mapping]] = ..., passthrough: _Optional[_Union[PassthroughStats, _Mapping]] = ..., prefetch: _Optional[_Union[PrefetchStats, _Mapping]] = ..., latency: _Optional[_Union[LatencyStats, _Mapping]] = ..., sources: _Optional[_Iterable[_Union[SourceStats, _Mapping]]] = ..., fuse_requests: _Optional[int] = ..., nfs_calls: _Optional[int] = ..., nfs_retransmits: _Optional[int] = ..., nfs_reconnects: _Optional[int] = ..., bytes_read: _Optional[int] = ..., bytes_written: _Optional[int] = ..., nodes: _Optional[int] = ..., open_files: _Optional[int] = ..., uncommitted_bytes: _Optional[int] = ..., nas_responding: _Optional[bool] = ..., oldest_call_ms: _Optional[int] = ..., bytes_spliced: _Optional[int] = ..., pipe_misfits: _Optional[int] = ..., nodes_max: _Optional[int] = ...) -> None: ...

class FuseStats(_message.Message):
    __slots__ = ("requests",)
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    requests: int
    def __init__(self, requests: _Optional[int] = ...) -> None: ...

class NfsStats(_message.Message):
    __slots__ = ("calls", "retransmits", "reconnects", "bytes_read", "bytes_written", "bytes_spliced", "pipe_misfits", "responding", "oldest_call_ms")
    CALLS_FIELD_NUMBER: _ClassVar[int]
    RETRANSMITS_FIELD_NUMBER: _ClassVar[int]
    RECONNECTS_FIELD_NUMBER: _ClassVar[int]
    BYTES_READ_FIELD_NUMBER: _ClassVar[int]
    BYTES_WRITTEN_FIELD_NUMBER: _ClassVar[int]
    BYTES_SPLICED_FIELD_NUMBER: _ClassVar[int]
    PIPE_MISFITS_FIELD_NUMBER: _ClassVar[int]
    RESPONDING_FIELD_NUMBER: _ClassVar[int]
    OLDEST_CALL_MS_FIELD_NUMBER: _ClassVar[int]
    calls: int
    retransmits: int
    reconnects: int
    bytes_read: int
    bytes_written: int
    bytes_spliced: int
    pipe_misfits: int
    responding: bool
    oldest_call_ms: int
    def __init__(self, calls: _Optional[int] = ..., retransmits: _Optional[int] = ..., reconnects: _Optional[int] = ..., bytes_read: _Optional[int] = ..., bytes_written: _Optional[int] = ..., bytes_spliced: _Optional[int] = ..., pipe_misfits: _Optional[int] = ..., responding: _Optional[bool] = ..., oldest_call_ms: _Optional[int] = ...) -> None: ...

class StateStats(_message.Message):
    __slots__ = ("nodes", "nodes_max", "open_files", "uncommitted_bytes")
    NODES_FIELD_NUMBER: _ClassVar[int]
    NODES_MAX_FIELD_NUMBER: _ClassVar[int]
    OPEN_FILES_FIELD_NUMBER: _ClassVar[int]
    UNCOMMITTED_BYTES_FIELD_NUMBER: _ClassVar[int]
    nodes: int
    nodes_max: int
    open_files: int
    uncommitted_bytes: int
    def __init__(self, nodes: _Optional[int] = ..., nodes_max: _Optional[int] = ..., open_files: _Optional[int] = ..., uncommitted_bytes: _Optional[int] = ...) -> None: ...

class MetadataStats(_message.Message):
    __slots__ = ("bytes_max", "inode_bytes", "name_bytes", "listing_bytes", "node_bytes")
    BYTES_MAX_FIELD_NUMBER: _ClassVar[int]
    INODE_BYTES_FIELD_NUMBER: _ClassVar[int]
    NAME_BYTES_FIELD_NUMBER: _ClassVar[int]
    LISTING_BYTES_FIELD_NUMBER: _ClassVar[int]
    NODE_BYTES_FIELD_NUMBER: _ClassVar[int]
    bytes_max: int
    inode_bytes: int
    name_bytes: int
    listing_bytes: int
    node_bytes: int
    def __init__(self, bytes_max: _Optional[int] = ..., inode_bytes: _Optional[int] = ..., name_bytes: _Optional[int] = ..., listing_bytes: _Optional[int] = ..., node_bytes: _Optional[int] = ...) -> None: ...

class WritingStats(_message.Message):
    __slots__ = ("unsent_bytes", "oldest_unsent_ms", "append_overlaps", "changes")
    UNSENT_BYTES_FIELD_NUMBER: _ClassVar[int]
    OLDEST_UNSENT_MS_FIELD_NUMBER: _ClassVar[int]
    APPEND_OVERLAPS_FIELD_NUMBER: _ClassVar[int]
    CHANGES_FIELD_NUMBER: _ClassVar[int]
    unsent_bytes: int
    oldest_unsent_ms: int
    append_overlaps: int
    changes: int
    def __init__(self, unsent_bytes: _Optional[int] = ..., oldest_unsent_ms: _Optional[int] = ..., append_overlaps: _Optional[int] = ..., changes: _Optional[int] = ...) -> None: ...

class SourceStats(_message.Message):
    __slots__ = ("path", "attached", "reason", "responding")
    PATH_FIELD_NUMBER: _ClassVar[int]
    ATTACHED_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    RESPONDING_FIELD_NUMBER: _ClassVar[int]
    path: str
    attached: bool
    reason: str
    responding: bool
    def __init__(self, path: _Optional[str] = ..., attached: _Optional[bool] = ..., reason: _Optional[str] = ..., responding: _Optional[bool] = ...) -> None: ...

class CacheStats(_message.Message):
    __slots__ = ("memory_bytes", "workers_bytes", "nas_bytes", "workers_refused", "workers_capacity_bytes", "workers_held_bytes", "workers", "workers_ready", "store_bytes", "memory_blocks", "store_blocks", "workers_blocks", "nas_blocks", "workers_misses", "workers_filled_bytes", "workers_unfilled_overtaken", "workers_unfilled_full", "workers_unfilled_memory", "workers_unfilled_busy")
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    WORKERS_BYTES_FIELD_NUMBER: _ClassVar[int]
    NAS_BYTES_FIELD_NUMBER: _ClassVar[int]
    WORKERS_REFUSED_FIELD_NUMBER: _ClassVar[int]
    WORKERS_CAPACITY_BYTES_FIELD_NUMBER: _ClassVar[int]
    WORKERS_HELD_BYTES_FIELD_NUMBER: _ClassVar[int]
    WORKERS_FIELD_NUMBER: _ClassVar[int]
    WORKERS_READY_FIELD_NUMBER: _ClassVar[int]
    STORE_BYTES_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    STORE_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    WORKERS_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    NAS_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    WORKERS_MISSES_FIELD_NUMBER: _ClassVar[int]
    WORKERS_FILLED_BYTES_FIELD_NUMBER: _ClassVar[int]
    WORKERS_UNFILLED_OVERTAKEN_FIELD_NUMBER: _ClassVar[int]
    WORKERS_UNFILLED_FULL_FIELD_NUMBER: _ClassVar[int]
    WORKERS_UNFILLED_MEMORY_FIELD_NUMBER: _ClassVar[int]
    WORKERS_UNFILLED_BUSY_FIELD_NUMBER: _ClassVar[int]
    memory_bytes: int
    workers_bytes: int
    nas_bytes: int
    workers_refused: int
    workers_capacity_bytes: int
    workers_held_bytes: int
    workers: int
    workers_ready: int
    store_bytes: int
    memory_blocks: int
    store_blocks: int
    workers_blocks: int
    nas_blocks: int
    workers_misses: int
    workers_filled_bytes: int
    workers_unfilled_overtaken: int
    workers_unfilled_full: int
    workers_unfilled_memory: int
    workers_unfilled_busy: int
    def __init__(self, memory_bytes: _Optional[int] = ..., workers_bytes: _Optional[int] = ..., nas_bytes: _Optional[int] = ..., workers_refused: _Optional[int] = ..., workers_capacity_bytes: _Optional[int] = ..., workers_held_bytes: _Optional[int] = ..., workers: _Optional[int] = ..., workers_ready: _Optional[int] = ..., store_bytes: _Optional[int] = ..., memory_blocks: _Optional[int] = ..., store_blocks: _Optional[int] = ..., workers_blocks: _Optional[int] = ..., nas_blocks: _Optional[int] = ..., workers_misses: _Optional[int] = ..., workers_filled_bytes: _Optional[int] = ..., workers_unfilled_overtaken: _Optional[int] = ..., workers_unfilled_full: _Optional[int] = ..., workers_unfilled_memory: _Optional[int] = ..., workers_unfilled_busy: _Optional[int] = ...) -> None: ...

class LatencyStats(_message.Message):
    __slots__ = ("bounds_us", "reads", "operations")
    BOUNDS_US_FIELD_NUMBER: _ClassVar[int]
    READS_FIELD_NUMBER: _ClassVar[int]
    OPERATIONS_FIELD_NUMBER: _ClassVar[int]
    bounds_us: _containers.RepeatedScalarFieldContainer[int]
    reads: _containers.RepeatedCompositeFieldContainer[Latency]
    operations: _containers.RepeatedCompositeFieldContainer[Latency]
    def __init__(self, bounds_us: _Optional[_Iterable[int]] = ..., reads: _Optional[_Iterable[_Union[Latency, _Mapping]]] = ..., operations: _Optional[_Iterable[_Union[Latency, _Mapping]]] = ...) -> None: ...

class Latency(_message.Message):
    __slots__ = ("of", "sum_us", "buckets")
    OF_FIELD_NUMBER: _ClassVar[int]
    SUM_US_FIELD_NUMBER: _ClassVar[int]
    BUCKETS_FIELD_NUMBER: _ClassVar[int]
    of: str
    sum_us: int
    buckets: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, of: _Optional[str] = ..., sum_us: _Optional[int] = ..., buckets: _Optional[_Iterable[int]] = ...) -> None: ...

class PrefetchStats(_message.Message):
    __slots__ = ("order_asked", "order_used", "order_wasted", "directory_asked", "directory_used", "directory_wasted", "held_bytes")
    ORDER_ASKED_FIELD_NUMBER: _ClassVar[int]
    ORDER_USED_FIELD_NUMBER: _ClassVar[int]
    ORDER_WASTED_FIELD_NUMBER: _ClassVar[int]
    DIRECTORY_ASKED_FIELD_NUMBER: _ClassVar[int]
    DIRECTORY_USED_FIELD_NUMBER: _ClassVar[int]
    DIRECTORY_WASTED_FIELD_NUMBER: _ClassVar[int]
    HELD_BYTES_FIELD_NUMBER: _ClassVar[int]
    order_asked: int
    order_used: int
    order_wasted: int
    directory_asked: int
    directory_used: int
    directory_wasted: int
    held_bytes: int
    def __init__(self, order_asked: _Optional[int] = ..., order_used: _Optional[int] = ..., order_wasted: _Optional[int] = ..., directory_asked: _Optional[int] = ..., directory_used: _Optional[int] = ..., directory_wasted: _Optional[int] = ..., held_bytes: _Optional[int] = ...) -> None: ...

class StoreStats(_message.Message):
    __slots__ = ("state", "capacity_bytes", "held_bytes", "files", "hits", "misses", "filled_bytes", "refused", "evicted_bytes", "damaged", "late", "refused_busy", "refused_disk", "disk_bytes", "disk_free_bytes")
    class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        STATE_UNSPECIFIED: _ClassVar[StoreStats.State]
        WAITING: _ClassVar[StoreStats.State]
        LOADING: _ClassVar[StoreStats.State]
        SERVING: _ClassVar[StoreStats.State]
        SLOW: _ClassVar[StoreStats.State]
        READ_ONLY: _ClassVar[StoreStats.State]
        FULL: _ClassVar[StoreStats.State]
        FAILED: _ClassVar[StoreStats.State]
    STATE_UNSPECIFIED: StoreStats.State
    WAITING: StoreStats.State
    LOADING: StoreStats.State
    SERVING: StoreStats.State
    SLOW: StoreStats.State
    READ_ONLY: StoreStats.State
    FULL: StoreStats.State
    FAILED: StoreStats.State
    STATE_FIELD_NUMBER: _ClassVar[int]
    CAPACITY_BYTES_FIELD_NUMBER: _ClassVar[int]
    HELD_BYTES_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    HITS_FIELD_NUMBER: _ClassVar[int]
    MISSES_FIELD_NUMBER: _ClassVar[int]
    FILLED_BYTES_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    EVICTED_BYTES_FIELD_NUMBER: _ClassVar[int]
    DAMAGED_FIELD_NUMBER: _ClassVar[int]
    LATE_FIELD_NUMBER: _ClassVar[int]
    REFUSED_BUSY_FIELD_NUMBER: _ClassVar[int]
    REFUSED_DISK_FIELD_NUMBER: _ClassVar[int]
    DISK_BYTES_FIELD_NUMBER: _ClassVar[int]
    DISK_FREE_BYTES_FIELD_NUMBER: _ClassVar[int]
    state: StoreStats.State
    capacity_bytes: int
    held_bytes: int
    files: int
    hits: int
    misses: int
    filled_bytes: int
    refused: int
    evicted_bytes: int
    damaged: int
    late: int
    refused_busy: int
    refused_disk: int
    disk_bytes: int
    disk_free_bytes: int
    def __init__(self, state: _Optional[_Union[StoreStats.State, str]] = ..., capacity_bytes: _Optional[int] = ..., held_bytes: _Optional[int] = ..., files: _Optional[int] = ..., hits: _Optional[int] = ..., misses: _Optional[int] = ..., filled_bytes: _Optional[int] = ..., refused: _Optional[int] = ..., evicted_bytes: _Optional[int] = ..., damaged: _Optional[int] = ..., late: _Optional[int] = ..., refused_busy: _Optional[int] = ..., refused_disk: _Optional[int] = ..., disk_bytes: _Optional[int] = ..., disk_free_bytes: _Optional[int] = ...) -> None: ...

class PassthroughStats(_message.Message):
    __slots__ = ("state", "opens", "files")
    class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        STATE_UNSPECIFIED: _ClassVar[PassthroughStats.State]
        ON: _ClassVar[PassthroughStats.State]
        KERNEL: _ClassVar[PassthroughStats.State]
        MOUNT: _ClassVar[PassthroughStats.State]
        KEEPER: _ClassVar[PassthroughStats.State]
        REFUSED: _ClassVar[PassthroughStats.State]
        STORE: _ClassVar[PassthroughStats.State]
    STATE_UNSPECIFIED: PassthroughStats.State
    ON: PassthroughStats.State
    KERNEL: PassthroughStats.State
    MOUNT: PassthroughStats.State
    KEEPER: PassthroughStats.State
    REFUSED: PassthroughStats.State
    STORE: PassthroughStats.State
    STATE_FIELD_NUMBER: _ClassVar[int]
    OPENS_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    state: PassthroughStats.State
    opens: int
    files: int
    def __init__(self, state: _Optional[_Union[PassthroughStats.State, str]] = ..., opens: _Optional[int] = ..., files: _Optional[int] = ...) -> None: ...

class NetworkOffer(_message.Message):
    __slots__ = ("version",)
    VERSION_FIELD_NUMBER: _ClassVar[int]
    version: str
    def __init__(self, version: _Optional[str] = ...) -> None: ...

class SavedServer(_message.Message):
    __slots__ = ("port", "read_max", "write_max", "root_fsid", "root", "root_fileid", "root_kind", "ignores_case")
    PORT_FIELD_NUMBER: _ClassVar[int]
    READ_MAX_FIELD_NUMBER: _ClassVar[int]
    WRITE_MAX_FIELD_NUMBER: _ClassVar[int]
    ROOT_FSID_FIELD_NUMBER: _ClassVar[int]
    ROOT_FIELD_NUMBER: _ClassVar[int]
    ROOT_FILEID_FIELD_NUMBER: _ClassVar[int]
    ROOT_KIND_FIELD_NUMBER: _ClassVar[int]
    IGNORES_CASE_FIELD_NUMBER: _ClassVar[int]
    port: int
    read_max: int
    write_max: int
    root_fsid: int
    root: bytes
    root_fileid: int
    root_kind: int
    ignores_case: bool
    def __init__(self, port: _Optional[int] = ..., read_max: _Optional[int] = ..., write_max: _Optional[int] = ..., root_fsid: _Optional[int] = ..., root: _Optional[bytes] = ..., root_fileid: _Optional[int] = ..., root_kind: _Optional[int] = ..., ignores_case: _Optional[bool] = ...) -> None: ...

class SavedSources(_message.Message):
    __slots__ = ("sources", "last_number", "changed_at_unix_ns")
    SOURCES_FIELD_NUMBER: _ClassVar[int]
    LAST_NUMBER_FIELD_NUMBER: _ClassVar[int]
    CHANGED_AT_UNIX_NS_FIELD_NUMBER: _ClassVar[int]
    sources: _containers.RepeatedCompositeFieldContainer[SavedSource]
    last_number: int
    changed_at_unix_ns: int
    def __init__(self, sources: _Optional[_Iterable[_Union[SavedSource, _Mapping]]] = ..., last_number: _Optional[int] = ..., changed_at_unix_ns: _Optional[int] = ...) -> None: ...

class SavedSource(_message.Message):
    __slots__ = ("number", "mounted", "taken_away", "server", "root_mode", "root_uid", "root_gid", "taken_away_unix_ns")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    MOUNTED_FIELD_NUMBER: _ClassVar[int]
    TAKEN_AWAY_FIELD_NUMBER: _ClassVar[int]
    SERVER_FIELD_NUMBER: _ClassVar[int]
    ROOT_MODE_FIELD_NUMBER: _ClassVar[int]
    ROOT_UID_FIELD_NUMBER: _ClassVar[int]
    ROOT_GID_FIELD_NUMBER: _ClassVar[int]
    TAKEN_AWAY_UNIX_NS_FIELD_NUMBER: _ClassVar[int]
    number: int
    mounted: MountedSource
    taken_away: bool
    server: SavedServer
    root_mode: int
    root_uid: int
    root_gid: int
    taken_away_unix_ns: int
    def __init__(self, number: _Optional[int] = ..., mounted: _Optional[_Union[MountedSource, _Mapping]] = ..., taken_away: _Optional[bool] = ..., server: _Optional[_Union[SavedServer, _Mapping]] = ..., root_mode: _Optional[int] = ..., root_uid: _Optional[int] = ..., root_gid: _Optional[int] = ..., taken_away_unix_ns: _Optional[int] = ...) -> None: ...
