from memoryd_proto.v1 import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Freshness(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FRESHNESS_UNSPECIFIED: _ClassVar[Freshness]
    FRESHNESS_ACKED: _ClassVar[Freshness]
    FRESHNESS_ABSORBED: _ClassVar[Freshness]
FRESHNESS_UNSPECIFIED: Freshness
FRESHNESS_ACKED: Freshness
FRESHNESS_ABSORBED: Freshness

class AppendRequest(_message.Message):
    __slots__ = ("session", "writer_id", "seq", "pieces", "expected_offset")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    WRITER_ID_FIELD_NUMBER: _ClassVar[int]
    SEQ_FIELD_NUMBER: _ClassVar[int]
    PIECES_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_OFFSET_FIELD_NUMBER: _ClassVar[int]
    session: str
    writer_id: str
    seq: int
    pieces: _containers.RepeatedCompositeFieldContainer[_types_pb2.Piece]
    expected_offset: _types_pb2.Offset
    def __init__(self, session: _Optional[str] = ..., writer_id: _Optional[str] = ..., seq: _Optional[int] = ..., pieces: _Optional[_Iterable[_Union[_types_pb2.Piece, _Mapping]]] = ..., expected_offset: _Optional[_Union[_types_pb2.Offset, _Mapping]] = ...) -> None: ...

class AppendResponse(_message.Message):
    __slots__ = ("offset", "tail_bytes", "replayed")
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    TAIL_BYTES_FIELD_NUMBER: _ClassVar[int]
    REPLAYED_FIELD_NUMBER: _ClassVar[int]
    offset: _types_pb2.Offset
    tail_bytes: int
    replayed: bool
    def __init__(self, offset: _Optional[_Union[_types_pb2.Offset, _Mapping]] = ..., tail_bytes: _Optional[int] = ..., replayed: bool = ...) -> None: ...

class AppendStreamRequest(_message.Message):
    __slots__ = ("session", "writer_id", "seq", "pieces")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    WRITER_ID_FIELD_NUMBER: _ClassVar[int]
    SEQ_FIELD_NUMBER: _ClassVar[int]
    PIECES_FIELD_NUMBER: _ClassVar[int]
    session: str
    writer_id: str
    seq: int
    pieces: _containers.RepeatedCompositeFieldContainer[_types_pb2.Piece]
    def __init__(self, session: _Optional[str] = ..., writer_id: _Optional[str] = ..., seq: _Optional[int] = ..., pieces: _Optional[_Iterable[_Union[_types_pb2.Piece, _Mapping]]] = ...) -> None: ...

class AppendStreamResponse(_message.Message):
    __slots__ = ("seq", "offset", "tail_bytes", "absorbed_tokens")
    SEQ_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    TAIL_BYTES_FIELD_NUMBER: _ClassVar[int]
    ABSORBED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    seq: int
    offset: _types_pb2.Offset
    tail_bytes: int
    absorbed_tokens: int
    def __init__(self, seq: _Optional[int] = ..., offset: _Optional[_Union[_types_pb2.Offset, _Mapping]] = ..., tail_bytes: _Optional[int] = ..., absorbed_tokens: _Optional[int] = ...) -> None: ...

class QueryRequest(_message.Message):
    __slots__ = ("session", "question", "reply_prefix", "raw", "freshness", "min_offset", "report_progress", "allow_stale", "sampling")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    QUESTION_FIELD_NUMBER: _ClassVar[int]
    REPLY_PREFIX_FIELD_NUMBER: _ClassVar[int]
    RAW_FIELD_NUMBER: _ClassVar[int]
    FRESHNESS_FIELD_NUMBER: _ClassVar[int]
    MIN_OFFSET_FIELD_NUMBER: _ClassVar[int]
    REPORT_PROGRESS_FIELD_NUMBER: _ClassVar[int]
    ALLOW_STALE_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    session: str
    question: bytes
    reply_prefix: bytes
    raw: bool
    freshness: Freshness
    min_offset: _types_pb2.Offset
    report_progress: bool
    allow_stale: bool
    sampling: _types_pb2.Sampling
    def __init__(self, session: _Optional[str] = ..., question: _Optional[bytes] = ..., reply_prefix: _Optional[bytes] = ..., raw: bool = ..., freshness: _Optional[_Union[Freshness, str]] = ..., min_offset: _Optional[_Union[_types_pb2.Offset, _Mapping]] = ..., report_progress: bool = ..., allow_stale: bool = ..., sampling: _Optional[_Union[_types_pb2.Sampling, _Mapping]] = ...) -> None: ...

class Progress(_message.Message):
    __slots__ = ("absorbed_tokens", "target_tokens")
    ABSORBED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    TARGET_TOKENS_FIELD_NUMBER: _ClassVar[int]
    absorbed_tokens: int
    target_tokens: int
    def __init__(self, absorbed_tokens: _Optional[int] = ..., target_tokens: _Optional[int] = ...) -> None: ...

class TextDelta(_message.Message):
    __slots__ = ("text", "token_ids")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    text: str
    token_ids: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, text: _Optional[str] = ..., token_ids: _Optional[_Iterable[int]] = ...) -> None: ...

class Completion(_message.Message):
    __slots__ = ("finish_reason", "usage", "offset", "stale", "seed", "replayed")
    FINISH_REASON_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    STALE_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    REPLAYED_FIELD_NUMBER: _ClassVar[int]
    finish_reason: _types_pb2.FinishReason
    usage: _types_pb2.Usage
    offset: _types_pb2.Offset
    stale: bool
    seed: int
    replayed: bool
    def __init__(self, finish_reason: _Optional[_Union[_types_pb2.FinishReason, str]] = ..., usage: _Optional[_Union[_types_pb2.Usage, _Mapping]] = ..., offset: _Optional[_Union[_types_pb2.Offset, _Mapping]] = ..., stale: bool = ..., seed: _Optional[int] = ..., replayed: bool = ...) -> None: ...

class QueryResponse(_message.Message):
    __slots__ = ("progress", "delta", "completion")
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    DELTA_FIELD_NUMBER: _ClassVar[int]
    COMPLETION_FIELD_NUMBER: _ClassVar[int]
    progress: Progress
    delta: TextDelta
    completion: Completion
    def __init__(self, progress: _Optional[_Union[Progress, _Mapping]] = ..., delta: _Optional[_Union[TextDelta, _Mapping]] = ..., completion: _Optional[_Union[Completion, _Mapping]] = ...) -> None: ...

class ChatRequest(_message.Message):
    __slots__ = ("session", "request_id", "message", "sampling", "report_progress")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    REPORT_PROGRESS_FIELD_NUMBER: _ClassVar[int]
    session: str
    request_id: str
    message: bytes
    sampling: _types_pb2.Sampling
    report_progress: bool
    def __init__(self, session: _Optional[str] = ..., request_id: _Optional[str] = ..., message: _Optional[bytes] = ..., sampling: _Optional[_Union[_types_pb2.Sampling, _Mapping]] = ..., report_progress: bool = ...) -> None: ...

class ChatResponse(_message.Message):
    __slots__ = ("progress", "delta", "completion")
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    DELTA_FIELD_NUMBER: _ClassVar[int]
    COMPLETION_FIELD_NUMBER: _ClassVar[int]
    progress: Progress
    delta: TextDelta
    completion: Completion
    def __init__(self, progress: _Optional[_Union[Progress, _Mapping]] = ..., delta: _Optional[_Union[TextDelta, _Mapping]] = ..., completion: _Optional[_Union[Completion, _Mapping]] = ...) -> None: ...

class CancelChatRequest(_message.Message):
    __slots__ = ("session", "request_id")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    session: str
    request_id: str
    def __init__(self, session: _Optional[str] = ..., request_id: _Optional[str] = ...) -> None: ...

class CancelChatResponse(_message.Message):
    __slots__ = ("offset",)
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    offset: _types_pb2.Offset
    def __init__(self, offset: _Optional[_Union[_types_pb2.Offset, _Mapping]] = ...) -> None: ...
