from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class GetModelRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetModelResponse(_message.Message):
    __slots__ = ("model", "fingerprint", "numerics", "layers", "parameters", "vocab_size", "chunk", "state_bytes", "max_prompt_tokens", "notes", "token_bytes")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    NUMERICS_FIELD_NUMBER: _ClassVar[int]
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    VOCAB_SIZE_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    STATE_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    NOTES_FIELD_NUMBER: _ClassVar[int]
    TOKEN_BYTES_FIELD_NUMBER: _ClassVar[int]
    model: str
    fingerprint: str
    numerics: str
    layers: _containers.RepeatedScalarFieldContainer[str]
    parameters: int
    vocab_size: int
    chunk: int
    state_bytes: int
    max_prompt_tokens: int
    notes: _containers.RepeatedScalarFieldContainer[str]
    token_bytes: int
    def __init__(self, model: _Optional[str] = ..., fingerprint: _Optional[str] = ..., numerics: _Optional[str] = ..., layers: _Optional[_Iterable[str]] = ..., parameters: _Optional[int] = ..., vocab_size: _Optional[int] = ..., chunk: _Optional[int] = ..., state_bytes: _Optional[int] = ..., max_prompt_tokens: _Optional[int] = ..., notes: _Optional[_Iterable[str]] = ..., token_bytes: _Optional[int] = ...) -> None: ...

class GetStatsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetStatsResponse(_message.Message):
    __slots__ = ("version", "daemon_id", "start_time", "sessions", "slots_used", "slots_total", "lanes_used", "lanes_total", "tokens_appended", "tokens_absorbed", "tokens_generated", "backlog_tokens", "checkpoints", "resident_bytes", "redis_used_bytes", "storage", "durability", "draining", "tasks", "missing")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DAEMON_ID_FIELD_NUMBER: _ClassVar[int]
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    SESSIONS_FIELD_NUMBER: _ClassVar[int]
    SLOTS_USED_FIELD_NUMBER: _ClassVar[int]
    SLOTS_TOTAL_FIELD_NUMBER: _ClassVar[int]
    LANES_USED_FIELD_NUMBER: _ClassVar[int]
    LANES_TOTAL_FIELD_NUMBER: _ClassVar[int]
    TOKENS_APPENDED_FIELD_NUMBER: _ClassVar[int]
    TOKENS_ABSORBED_FIELD_NUMBER: _ClassVar[int]
    TOKENS_GENERATED_FIELD_NUMBER: _ClassVar[int]
    BACKLOG_TOKENS_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINTS_FIELD_NUMBER: _ClassVar[int]
    RESIDENT_BYTES_FIELD_NUMBER: _ClassVar[int]
    REDIS_USED_BYTES_FIELD_NUMBER: _ClassVar[int]
    STORAGE_FIELD_NUMBER: _ClassVar[int]
    DURABILITY_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    TASKS_FIELD_NUMBER: _ClassVar[int]
    MISSING_FIELD_NUMBER: _ClassVar[int]
    version: str
    daemon_id: str
    start_time: _timestamp_pb2.Timestamp
    sessions: int
    slots_used: int
    slots_total: int
    lanes_used: int
    lanes_total: int
    tokens_appended: int
    tokens_absorbed: int
    tokens_generated: int
    backlog_tokens: int
    checkpoints: int
    resident_bytes: int
    redis_used_bytes: int
    storage: str
    durability: str
    draining: bool
    tasks: int
    missing: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, version: _Optional[str] = ..., daemon_id: _Optional[str] = ..., start_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., sessions: _Optional[int] = ..., slots_used: _Optional[int] = ..., slots_total: _Optional[int] = ..., lanes_used: _Optional[int] = ..., lanes_total: _Optional[int] = ..., tokens_appended: _Optional[int] = ..., tokens_absorbed: _Optional[int] = ..., tokens_generated: _Optional[int] = ..., backlog_tokens: _Optional[int] = ..., checkpoints: _Optional[int] = ..., resident_bytes: _Optional[int] = ..., redis_used_bytes: _Optional[int] = ..., storage: _Optional[str] = ..., durability: _Optional[str] = ..., draining: bool = ..., tasks: _Optional[int] = ..., missing: _Optional[_Iterable[str]] = ...) -> None: ...

class DrainRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DrainResponse(_message.Message):
    __slots__ = ("sessions_released",)
    SESSIONS_RELEASED_FIELD_NUMBER: _ClassVar[int]
    sessions_released: int
    def __init__(self, sessions_released: _Optional[int] = ...) -> None: ...

class ApiKey(_message.Message):
    __slots__ = ("id", "tenant", "scopes", "create_time", "expire_time")
    ID_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    SCOPES_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    EXPIRE_TIME_FIELD_NUMBER: _ClassVar[int]
    id: str
    tenant: str
    scopes: _containers.RepeatedScalarFieldContainer[str]
    create_time: _timestamp_pb2.Timestamp
    expire_time: _timestamp_pb2.Timestamp
    def __init__(self, id: _Optional[str] = ..., tenant: _Optional[str] = ..., scopes: _Optional[_Iterable[str]] = ..., create_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., expire_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class CreateApiKeyRequest(_message.Message):
    __slots__ = ("tenant", "scopes")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    SCOPES_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    scopes: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, tenant: _Optional[str] = ..., scopes: _Optional[_Iterable[str]] = ...) -> None: ...

class CreateApiKeyResponse(_message.Message):
    __slots__ = ("key", "secret")
    KEY_FIELD_NUMBER: _ClassVar[int]
    SECRET_FIELD_NUMBER: _ClassVar[int]
    key: ApiKey
    secret: str
    def __init__(self, key: _Optional[_Union[ApiKey, _Mapping]] = ..., secret: _Optional[str] = ...) -> None: ...

class ListApiKeysRequest(_message.Message):
    __slots__ = ("tenant",)
    TENANT_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    def __init__(self, tenant: _Optional[str] = ...) -> None: ...

class ListApiKeysResponse(_message.Message):
    __slots__ = ("keys",)
    KEYS_FIELD_NUMBER: _ClassVar[int]
    keys: _containers.RepeatedCompositeFieldContainer[ApiKey]
    def __init__(self, keys: _Optional[_Iterable[_Union[ApiKey, _Mapping]]] = ...) -> None: ...

class RevokeApiKeyRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class RevokeApiKeyResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class RotateApiKeyRequest(_message.Message):
    __slots__ = ("id", "grace")
    ID_FIELD_NUMBER: _ClassVar[int]
    GRACE_FIELD_NUMBER: _ClassVar[int]
    id: str
    grace: _duration_pb2.Duration
    def __init__(self, id: _Optional[str] = ..., grace: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class RotateApiKeyResponse(_message.Message):
    __slots__ = ("key", "secret")
    KEY_FIELD_NUMBER: _ClassVar[int]
    SECRET_FIELD_NUMBER: _ClassVar[int]
    key: ApiKey
    secret: str
    def __init__(self, key: _Optional[_Union[ApiKey, _Mapping]] = ..., secret: _Optional[str] = ...) -> None: ...

class Quota(_message.Message):
    __slots__ = ("sessions", "stored_bytes", "tokens_per_minute", "concurrent_queries")
    SESSIONS_FIELD_NUMBER: _ClassVar[int]
    STORED_BYTES_FIELD_NUMBER: _ClassVar[int]
    TOKENS_PER_MINUTE_FIELD_NUMBER: _ClassVar[int]
    CONCURRENT_QUERIES_FIELD_NUMBER: _ClassVar[int]
    sessions: int
    stored_bytes: int
    tokens_per_minute: int
    concurrent_queries: int
    def __init__(self, sessions: _Optional[int] = ..., stored_bytes: _Optional[int] = ..., tokens_per_minute: _Optional[int] = ..., concurrent_queries: _Optional[int] = ...) -> None: ...

class GetQuotaRequest(_message.Message):
    __slots__ = ("tenant",)
    TENANT_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    def __init__(self, tenant: _Optional[str] = ...) -> None: ...

class GetQuotaResponse(_message.Message):
    __slots__ = ("limits", "own", "used")
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    OWN_FIELD_NUMBER: _ClassVar[int]
    USED_FIELD_NUMBER: _ClassVar[int]
    limits: Quota
    own: _containers.RepeatedScalarFieldContainer[str]
    used: Quota
    def __init__(self, limits: _Optional[_Union[Quota, _Mapping]] = ..., own: _Optional[_Iterable[str]] = ..., used: _Optional[_Union[Quota, _Mapping]] = ...) -> None: ...

class SetQuotaRequest(_message.Message):
    __slots__ = ("tenant", "sessions", "stored_bytes", "tokens_per_minute", "concurrent_queries", "defaults")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    SESSIONS_FIELD_NUMBER: _ClassVar[int]
    STORED_BYTES_FIELD_NUMBER: _ClassVar[int]
    TOKENS_PER_MINUTE_FIELD_NUMBER: _ClassVar[int]
    CONCURRENT_QUERIES_FIELD_NUMBER: _ClassVar[int]
    DEFAULTS_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    sessions: int
    stored_bytes: int
    tokens_per_minute: int
    concurrent_queries: int
    defaults: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, tenant: _Optional[str] = ..., sessions: _Optional[int] = ..., stored_bytes: _Optional[int] = ..., tokens_per_minute: _Optional[int] = ..., concurrent_queries: _Optional[int] = ..., defaults: _Optional[_Iterable[str]] = ...) -> None: ...

class SetQuotaResponse(_message.Message):
    __slots__ = ("limits", "own")
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    OWN_FIELD_NUMBER: _ClassVar[int]
    limits: Quota
    own: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, limits: _Optional[_Union[Quota, _Mapping]] = ..., own: _Optional[_Iterable[str]] = ...) -> None: ...

class DiscardSessionRequest(_message.Message):
    __slots__ = ("tenant", "name")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    name: str
    def __init__(self, tenant: _Optional[str] = ..., name: _Optional[str] = ...) -> None: ...

class DiscardSessionResponse(_message.Message):
    __slots__ = ("keys_deleted",)
    KEYS_DELETED_FIELD_NUMBER: _ClassVar[int]
    keys_deleted: int
    def __init__(self, keys_deleted: _Optional[int] = ...) -> None: ...
