"""The asyncio client: a thin shell over the flows. `_client` describes every method."""

import contextlib
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

import grpc
import grpc.aio

from memoryd_client import (
    _append,
    _calls,
    _channel,
    _objects,
    _rebuild,
    _reply,
    _requests,
    _source,
)
from memoryd_client._drive_async import AsyncExchange, drive
from memoryd_client._errors import MemorydError
from memoryd_client._flow import Flow
from memoryd_client._retry import Attempts, Retry
from memoryd_client._types import (
    Ack,
    ApiKey,
    AppendResult,
    Completion,
    Freshness,
    Inspection,
    ModelInfo,
    NewApiKey,
    Offset,
    Progress,
    Quota,
    Role,
    Sampling,
    Scope,
    Session,
    Snapshot,
    Stats,
    Tls,
    Verification,
)

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

T = TypeVar("T")


class AsyncReply:
    """See `Reply`: `async for`, `await reply.text()`, `async with`, `await reply.aclose()`."""

    def __init__(
        self,
        deltas: AsyncGenerator[str, None],
        state: _reply.ReplyState,
        request_id: str = "",
        cancel: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._deltas = deltas
        self._state = state
        self._cancel = cancel
        self.request_id = request_id

    def __aiter__(self) -> AsyncIterator[str]:
        return self._deltas

    async def text(self) -> str:
        """Read to the end; the text from here on."""
        return "".join([delta async for delta in self])

    @property
    def completion(self) -> Completion:
        """Why it ended and what it cost; RuntimeError before the end."""
        return self._state.finished()

    @property
    def token_ids(self) -> list[int]:
        return self._state.token_ids

    async def aclose(self) -> None:
        """Cancel what has not been read."""
        cancelled, self._state.ended = self._state.under_way, True
        await self._deltas.aclose()
        if cancelled and self._cancel is not None:
            with contextlib.suppress(MemorydError):
                await self._cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()


class AsyncClient:
    """See `Client`. Make and use it inside one running event loop."""

    def __init__(
        self,
        target: str = "127.0.0.1:7420",
        *,
        api_key: str | None = None,
        tls: Tls | None = None,
        timeout: float | None = 30.0,
        retry: Retry | None = None,
        tracer: "Tracer | None" = None,
    ) -> None:
        self._metadata = _channel.metadata(api_key)
        self._target = target
        self._timeout = timeout
        self._retry = retry or Retry()
        self._tracer = tracer
        self._channel = (
            grpc.aio.insecure_channel(target, _channel.OPTIONS)
            if tls is None
            else grpc.aio.secure_channel(target, _channel.credentials(tls), _channel.OPTIONS)
        )
        self._methods = _channel.Methods(self._channel)
        # For append_stream alone, see _bidi; it connects when it is first used.
        self._blocking_channel = _channel.blocking(target, tls)
        self._blocking_methods = _channel.Methods(self._blocking_channel)

    async def aclose(self) -> None:
        """End the connection and every call on it."""
        await self._channel.close()
        self._blocking_channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    def _attempts(self, *, idempotent: bool = True) -> Attempts:
        return Attempts(self._retry, self._timeout, idempotent=idempotent)

    def _stream(
        self, flow: Flow[T], source: AsyncGenerator[object, None] | None = None
    ) -> AsyncGenerator[T, None]:
        exchange = AsyncExchange(
            self._methods,
            self._blocking_methods,
            self._metadata,
            self._tracer,
            source or _source.async_nothing(),
        )
        return drive(flow, exchange, self._target)

    async def _answer(self, flow: Flow[T]) -> T:
        (answer,) = [value async for value in self._stream(flow)]
        return answer

    async def create_session(
        self,
        name: str = "",
        *,
        model: str = "",
        ttl: timedelta | None = None,
        labels: Mapping[str, str] | None = None,
        archive: bool = False,
        exist_ok: bool = False,
    ) -> Session:
        attempts = self._attempts(idempotent=exist_ok)
        return await self._answer(
            _calls.create_session(name, model, ttl, labels or {}, archive, exist_ok, attempts)
        )

    async def get_session(self, name: str) -> Session:
        return await self._answer(_calls.get_session(name, self._attempts()))

    def list_sessions(
        self, *, prefix: str = "", labels: Mapping[str, str] | None = None, page_size: int = 0
    ) -> AsyncIterator[Session]:
        return self._stream(_calls.list_sessions(prefix, labels or {}, page_size, self._attempts))

    async def delete_session(self, name: str, *, generation: str = "") -> None:
        attempts = self._attempts(idempotent=bool(generation))
        await self._answer(_calls.delete_session(name, generation, attempts))

    async def update_session(
        self,
        name: str,
        *,
        ttl: timedelta | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> Session:
        return await self._answer(
            _objects.update_session(name, ttl, labels or {}, self._attempts())
        )

    async def fork_session(self, name: str, new_name: str) -> Session:
        attempts = self._attempts(idempotent=False)
        return await self._answer(_objects.fork_session(name, new_name, attempts))

    async def snapshot_session(self, name: str, snapshot: str) -> Snapshot:
        attempts = self._attempts(idempotent=False)
        return await self._answer(_objects.snapshot_session(name, snapshot, attempts))

    async def list_snapshots(self, name: str) -> list[Snapshot]:
        return await self._answer(_objects.list_snapshots(name, self._attempts()))

    async def delete_snapshot(self, name: str, snapshot: str) -> None:
        await self._answer(_objects.delete_snapshot(name, snapshot, self._attempts()))

    async def restore_session(self, name: str, snapshot: str) -> Session:
        attempts = self._attempts(idempotent=False)
        return await self._answer(_objects.restore_session(name, snapshot, attempts))

    def export_session(self, name: str) -> AsyncIterator[bytes]:
        return self._stream(_objects.export_session(name, self._attempts()))

    async def import_session(self, name: str, source: _objects.AsyncFileSource) -> Session:
        attempts = self._attempts(idempotent=False)
        pieces = _source.async_items(source, _objects.PIECE_BYTES)
        flow = self._stream(_objects.import_session(name, attempts), pieces)
        (session,) = [session async for session in flow]
        return session

    async def verify_session(
        self,
        name: str,
        *,
        on_progress: _rebuild.OnRebuilding | None = None,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> Verification:
        return await self._answer(
            _rebuild.verify_session(name, on_progress, Attempts(self._retry, timeout))
        )

    async def migrate_session(
        self,
        name: str,
        *,
        to: str = "",
        on_progress: _rebuild.OnRebuilding | None = None,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> Session:
        attempts = Attempts(self._retry, timeout, idempotent=not to)
        return await self._answer(_rebuild.migrate_session(name, to, on_progress, attempts))

    async def inspect(self, name: str, *, layers: Sequence[int] = (), limit: int = 0) -> Inspection:
        return await self._answer(_calls.inspect(name, layers, limit, self._attempts()))

    async def append(
        self,
        session: str,
        content: _requests.Content | Sequence[_requests.Content],
        *,
        role: Role = Role.USER,
        expected_offset: Offset | None = None,
    ) -> AppendResult:
        writer = self.writer(session)
        return await writer.append(content, role=role, expected_offset=expected_offset)

    def writer(self, session: str) -> "AsyncWriter":
        return AsyncWriter(session, self._answer, self._attempts)

    async def append_stream(
        self,
        session: str,
        source: _source.AsyncSource,
        *,
        role: Role = Role.DOCUMENT,
        on_ack: Callable[[Ack], None] | None = None,
        writer_id: str | None = None,
        piece_bytes: int = 32 << 10,
        window: int = 32,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> AppendResult:
        options = _append.StreamOptions(session, writer_id, role, piece_bytes, window)
        flow = _append.append_stream(options, on_ack, Attempts(self._retry, timeout))
        (result,) = [
            value async for value in self._stream(flow, _source.async_items(source, piece_bytes))
        ]
        return result

    def query(
        self,
        session: str,
        question: str | bytes = "",
        *,
        raw: bool = False,
        reply_prefix: str | bytes = "",
        freshness: Freshness = Freshness.ACKED,
        min_offset: Offset | None = None,
        allow_stale: bool = False,
        sampling: Sampling | None = None,
        on_progress: Callable[[Progress], None] | None = None,
        timeout: float | None = None,
    ) -> AsyncReply:
        request = _requests.query(
            session, question, raw, reply_prefix, freshness, min_offset, allow_stale, sampling
        )
        state = _reply.ReplyState(on_progress)
        flow = _reply.query(request, state, Attempts(self._retry, timeout))
        return AsyncReply(self._stream(flow), state)

    def chat(
        self,
        session: str,
        message: str | bytes,
        *,
        request_id: str | None = None,
        sampling: Sampling | None = None,
        on_progress: Callable[[Progress], None] | None = None,
        timeout: float | None = None,
    ) -> AsyncReply:
        request = _requests.chat(session, request_id or uuid.uuid4().hex, message, sampling)
        state = _reply.ReplyState(on_progress)
        flow = _reply.chat(request, state, Attempts(self._retry, timeout))
        once = Attempts(Retry(give_up_after=0.0), _reply.CANCEL_SECONDS)
        ended = _calls.cancel_chat(session, request.request_id, once)
        return AsyncReply(
            self._stream(flow), state, request.request_id, cancel=lambda: self._answer(ended)
        )

    async def cancel_chat(self, session: str, request_id: str) -> None:
        await self._answer(_calls.cancel_chat(session, request_id, self._attempts()))

    async def get_model(self) -> ModelInfo:
        return await self._answer(_calls.get_model(self._attempts()))

    async def get_stats(self) -> Stats:
        return await self._answer(_calls.get_stats(self._attempts()))

    async def drain(self, *, timeout: float | None = None) -> int:  # noqa: ASYNC109
        attempts = Attempts(self._retry, timeout, idempotent=False)
        return await self._answer(_calls.drain(attempts))

    async def create_api_key(self, tenant: str, scopes: Sequence[Scope]) -> NewApiKey:
        attempts = self._attempts(idempotent=False)
        return await self._answer(_calls.create_api_key(tenant, scopes, attempts))

    async def list_api_keys(self, tenant: str = "") -> list[ApiKey]:
        return await self._answer(_calls.list_api_keys(tenant, self._attempts()))

    async def revoke_api_key(self, key_id: str) -> None:
        await self._answer(_calls.revoke_api_key(key_id, self._attempts()))

    async def rotate_api_key(self, key_id: str, *, grace: timedelta | None = None) -> NewApiKey:
        attempts = self._attempts(idempotent=False)
        return await self._answer(_calls.rotate_api_key(key_id, grace, attempts))

    async def get_quota(self, tenant: str) -> Quota:
        return await self._answer(_calls.get_quota(tenant, self._attempts()))

    async def set_quota(
        self,
        tenant: str,
        *,
        sessions: int | None = None,
        stored_bytes: int | None = None,
        tokens_per_minute: int | None = None,
        concurrent_queries: int | None = None,
        defaults: Sequence[str] = (),
    ) -> Quota:
        limits = {
            "sessions": sessions,
            "stored_bytes": stored_bytes,
            "tokens_per_minute": tokens_per_minute,
            "concurrent_queries": concurrent_queries,
        }
        return await self._answer(_calls.set_quota(tenant, limits, defaults, self._attempts()))

    async def discard_session(self, tenant: str, name: str) -> int:
        return await self._answer(_calls.discard_session(tenant, name, self._attempts()))

    async def is_serving(self) -> bool:
        return await self._answer(_calls.is_serving(self._attempts()))


class AsyncWriter:
    """See `Writer`."""

    def __init__(
        self,
        session: str,
        answer: Callable[[Flow[AppendResult]], Awaitable[AppendResult]],
        new_attempts: Callable[[], Attempts],
    ) -> None:
        self.session = session
        self._answer = answer
        self._new_attempts = new_attempts
        self._numbers = _append.WriterNumbers()

    async def append(
        self,
        content: _requests.Content | Sequence[_requests.Content],
        *,
        role: Role = Role.USER,
        expected_offset: Offset | None = None,
    ) -> AppendResult:
        flow = _calls.append(
            self.session, self._numbers, content, role, expected_offset, self._new_attempts()
        )
        return await self._answer(flow)
