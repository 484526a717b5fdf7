"""The blocking client: a thin shell over the flows."""

import contextlib
import uuid
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

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
from memoryd_client._drive import Exchange, drive
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


class Reply:
    """A reply as it is written. Nothing is sent before it is read.

    Iterating gives text as it arrives. Leaving a `with` block, or `close`, cancels the rest; a
    chat's turn is closed then, while one whose connection breaks can be taken up again.
    token_ids: ids of the tokens that have arrived. request_id: names a chat, empty for a query.
    """

    def __init__(
        self,
        deltas: Generator[str, None, None],
        state: _reply.ReplyState,
        request_id: str = "",
        cancel: Callable[[], None] | None = None,
    ) -> None:
        self._deltas = deltas
        self._state = state
        self._cancel = cancel
        self.request_id = request_id

    def __iter__(self) -> Iterator[str]:
        return self._deltas

    def text(self) -> str:
        """Read to the end; the text from here on."""
        return "".join(self)

    @property
    def completion(self) -> Completion:
        """Why it ended and what it cost; RuntimeError before the end."""
        return self._state.finished()

    @property
    def token_ids(self) -> list[int]:
        return self._state.token_ids

    def close(self) -> None:
        """Cancel what has not been read."""
        cancelled, self._state.ended = self._state.under_way, True
        self._deltas.close()
        if cancelled and self._cancel is not None:
            with contextlib.suppress(MemorydError):
                self._cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class Client:
    """Speaks to a memoryd daemon, or to a load balancer before several. Safe to share by threads.

    target: "host:port" or "unix:/path". api_key: sent with every call.
    tls: None speaks plain text, for daemons on this machine or behind a proxy that encrypts.
    timeout: seconds for a whole unary call with its retries; None waits without limit.
    tracer: of OpenTelemetry; each call sent is a span, and the daemon's span its child.
    Every method raises a subclass of `MemorydError` where the call fails.
    """

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
        self._channel = _channel.blocking(target, tls)
        self._methods = _channel.Methods(self._channel)

    def close(self) -> None:
        """End the connection and every call on it."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _attempts(self, *, idempotent: bool = True) -> Attempts:
        return Attempts(self._retry, self._timeout, idempotent=idempotent)

    def _stream(
        self, flow: Flow[T], source: Generator[object, None, None] | None = None
    ) -> Generator[T, None, None]:
        exchange = Exchange(
            self._methods, self._metadata, self._tracer, source or _source.nothing()
        )
        return drive(flow, exchange, self._target)

    def _answer(self, flow: Flow[T]) -> T:
        (answer,) = self._stream(flow)
        return answer

    def create_session(
        self,
        name: str = "",
        *,
        model: str = "",
        ttl: timedelta | None = None,
        labels: Mapping[str, str] | None = None,
        archive: bool = False,
        exist_ok: bool = False,
    ) -> Session:
        """Make an empty session; an empty name lets the daemon draw one.

        exist_ok: a session of that name is returned as it is, whatever its other options, and
        only then is a broken call tried again.
        """
        attempts = self._attempts(idempotent=exist_ok)
        return self._answer(
            _calls.create_session(name, model, ttl, labels or {}, archive, exist_ok, attempts)
        )

    def get_session(self, name: str) -> Session:
        """Read one session."""
        return self._answer(_calls.get_session(name, self._attempts()))

    def list_sessions(
        self, *, prefix: str = "", labels: Mapping[str, str] | None = None, page_size: int = 0
    ) -> Iterator[Session]:
        """Sessions by name, fetched page by page as they are read. page_size: 0 is the daemon's."""
        return self._stream(_calls.list_sessions(prefix, labels or {}, page_size, self._attempts))

    def delete_session(self, name: str, *, generation: str = "") -> None:
        """Delete a session with all it remembers; with a generation only that life of it.

        Only a deletion that names the generation is tried again.
        """
        attempts = self._attempts(idempotent=bool(generation))
        self._answer(_calls.delete_session(name, generation, attempts))

    def update_session(
        self,
        name: str,
        *,
        ttl: timedelta | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> Session:
        """Change time to live (zero: until deleted; None: as it is) and set labels.

        A label with an empty value is removed; those not named stay.
        """
        return self._answer(_objects.update_session(name, ttl, labels or {}, self._attempts()))

    def fork_session(self, name: str, new_name: str) -> Session:
        """Make a second session that starts with all that the first one holds."""
        attempts = self._attempts(idempotent=False)
        return self._answer(_objects.fork_session(name, new_name, attempts))

    def snapshot_session(self, name: str, snapshot: str) -> Snapshot:
        """Pin the session's memory of now under a name."""
        attempts = self._attempts(idempotent=False)
        return self._answer(_objects.snapshot_session(name, snapshot, attempts))

    def list_snapshots(self, name: str) -> list[Snapshot]:
        """All snapshots of a session, oldest first."""
        return self._answer(_objects.list_snapshots(name, self._attempts()))

    def delete_snapshot(self, name: str, snapshot: str) -> None:
        """Delete a snapshot; the session stays as it is."""
        self._answer(_objects.delete_snapshot(name, snapshot, self._attempts()))

    def restore_session(self, name: str, snapshot: str) -> Session:
        """Go back to a snapshot, as a new generation; what was appended since is gone."""
        attempts = self._attempts(idempotent=False)
        return self._answer(_objects.restore_session(name, snapshot, attempts))

    def export_session(self, name: str) -> Iterator[bytes]:
        """The session as one portable file, piece by piece as it is read."""
        return self._stream(_objects.export_session(name, self._attempts()))

    def import_session(self, name: str, source: _objects.FileSource) -> Session:
        """Make a session from an exported file: a path, an open binary file, or its bytes."""
        attempts = self._attempts(idempotent=False)
        pieces = _source.items(source, _objects.PIECE_BYTES)
        (session,) = self._stream(_objects.import_session(name, attempts), pieces)
        return session

    def verify_session(
        self,
        name: str,
        *,
        on_progress: _rebuild.OnRebuilding | None = None,
        timeout: float | None = None,
    ) -> Verification:
        """Build the session's memory again and compare it with the one in use.

        From the archive, or for a session without one from its newest checkpoint on. Nothing is
        changed. It reads as much again as the session has read: give it time.
        """
        return self._answer(
            _rebuild.verify_session(name, on_progress, Attempts(self._retry, timeout))
        )

    def migrate_session(
        self,
        name: str,
        *,
        to: str = "",
        on_progress: _rebuild.OnRebuilding | None = None,
        timeout: float | None = None,
    ) -> Session:
        """Read an archived session again with the daemon's model and tokenizer.

        to: name of a session to make beside it; empty replaces the session itself, whose offsets
        then are of a new generation. Until it is done the old one stands as it is.
        """
        attempts = Attempts(self._retry, timeout, idempotent=not to)
        return self._answer(_rebuild.migrate_session(name, to, on_progress, attempts))

    def inspect(self, name: str, *, layers: Sequence[int] = (), limit: int = 0) -> Inspection:
        """What each head has kept: of some layers, at most `limit` tokens a head (0 is 32)."""
        return self._answer(_calls.inspect(name, layers, limit, self._attempts()))

    def append(
        self,
        session: str,
        content: _requests.Content | Sequence[_requests.Content],
        *,
        role: Role = Role.USER,
        expected_offset: Offset | None = None,
    ) -> AppendResult:
        """Append one message, all of it or nothing. Bare text is a whole turn of `role`.

        It is durable on return; the model reads it afterwards.
        """
        return self.writer(session).append(content, role=role, expected_offset=expected_offset)

    def writer(self, session: str) -> "Writer":
        """A numbered series of appends to one session."""
        return Writer(session, self._answer, self._attempts)

    def append_stream(
        self,
        session: str,
        source: _source.Source,
        *,
        role: Role = Role.DOCUMENT,
        on_ack: Callable[[Ack], None] | None = None,
        writer_id: str | None = None,
        piece_bytes: int = 32 << 10,
        window: int = 32,
        timeout: float | None = None,
    ) -> AppendResult:
        """Stream text of any length into a session: a file, a path, or any iterable.

        Text and bytes, however cut, form one turn or document of `role`; Turn, Document and Piece
        stand for themselves. At most `window` messages of at most `piece_bytes` content are
        unacknowledged. A broken stream goes on behind the last ack. The same source streamed again
        from its start under the same `writer_id` appends only what is not there yet.
        """
        options = _append.StreamOptions(session, writer_id, role, piece_bytes, window)
        flow = _append.append_stream(options, on_ack, Attempts(self._retry, timeout))
        (result,) = self._stream(flow, _source.items(source, piece_bytes))
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
    ) -> Reply:
        """Ask the memory and leave it as it was.

        raw: no turn framing; the model goes on right behind the stream and the question.
        min_offset: at least this must have been read first.
        allow_stale: with Redis away, answer from what the daemon holds.
        on_progress: called while the model catches up. Tried again until text has arrived.
        """
        request = _requests.query(
            session, question, raw, reply_prefix, freshness, min_offset, allow_stale, sampling
        )
        state = _reply.ReplyState(on_progress)
        flow = _reply.query(request, state, Attempts(self._retry, timeout))
        return Reply(self._stream(flow), state)

    def chat(
        self,
        session: str,
        message: str | bytes,
        *,
        request_id: str | None = None,
        sampling: Sampling | None = None,
        on_progress: Callable[[Progress], None] | None = None,
        timeout: float | None = None,
    ) -> Reply:
        """Say something as the user; message and reply are remembered.

        request_id: names the exchange; the same id again replays the stored reply. A broken reply
        is taken up with it where it stopped.
        """
        request = _requests.chat(session, request_id or uuid.uuid4().hex, message, sampling)
        state = _reply.ReplyState(on_progress)
        flow = _reply.chat(request, state, Attempts(self._retry, timeout))
        once = Attempts(Retry(give_up_after=0.0), _reply.CANCEL_SECONDS)
        ended = _calls.cancel_chat(session, request.request_id, once)
        return Reply(
            self._stream(flow), state, request.request_id, cancel=lambda: self._answer(ended)
        )

    def cancel_chat(self, session: str, request_id: str) -> None:
        """End a chat for good, from wherever: what was sent is kept, and its turn is closed."""
        self._answer(_calls.cancel_chat(session, request_id, self._attempts()))

    def get_model(self) -> ModelInfo:
        """The model that the daemon serves."""
        return self._answer(_calls.get_model(self._attempts()))

    def get_stats(self) -> Stats:
        """Figures of the daemon that answers."""
        return self._answer(_calls.get_stats(self._attempts()))

    def drain(self, *, timeout: float | None = None) -> int:
        """End the daemon once every session is checkpointed; how many it released."""
        return self._answer(_calls.drain(Attempts(self._retry, timeout, idempotent=False)))

    def create_api_key(self, tenant: str, scopes: Sequence[Scope]) -> NewApiKey:
        """Make a key for a tenant; its secret is shown this once. Needs the admin scope."""
        attempts = self._attempts(idempotent=False)
        return self._answer(_calls.create_api_key(tenant, scopes, attempts))

    def list_api_keys(self, tenant: str = "") -> list[ApiKey]:
        """The keys of all tenants or of one, oldest first, without secrets."""
        return self._answer(_calls.list_api_keys(tenant, self._attempts()))

    def revoke_api_key(self, key_id: str) -> None:
        """Make a key worthless, on every daemon within ten seconds."""
        self._answer(_calls.revoke_api_key(key_id, self._attempts()))

    def rotate_api_key(self, key_id: str, *, grace: timedelta | None = None) -> NewApiKey:
        """A new key like `key_id`, which itself works on for `grace`; None revokes it at once."""
        attempts = self._attempts(idempotent=False)
        return self._answer(_calls.rotate_api_key(key_id, grace, attempts))

    def get_quota(self, tenant: str) -> Quota:
        """What a tenant may have and what it uses of it. Needs the admin scope."""
        return self._answer(_calls.get_quota(tenant, self._attempts()))

    def set_quota(
        self,
        tenant: str,
        *,
        sessions: int | None = None,
        stored_bytes: int | None = None,
        tokens_per_minute: int | None = None,
        concurrent_queries: int | None = None,
        defaults: Sequence[str] = (),
    ) -> Quota:
        """Change what a tenant may have; 0 is no limit, None leaves a limit as it is.

        defaults: names of limits that go back to what daemons are configured with. Needs the admin
        scope.
        """
        limits = {
            "sessions": sessions,
            "stored_bytes": stored_bytes,
            "tokens_per_minute": tokens_per_minute,
            "concurrent_queries": concurrent_queries,
        }
        return self._answer(_calls.set_quota(tenant, limits, defaults, self._attempts()))

    def discard_session(self, tenant: str, name: str) -> int:
        """Delete a session whose record cannot be read; how many keys it had in Redis.

        Sessions that can be read are refused: they are their tenant's. Needs the admin scope.
        """
        return self._answer(_calls.discard_session(tenant, name, self._attempts()))

    def is_serving(self) -> bool:
        """The standard health check: the daemon takes calls."""
        return self._answer(_calls.is_serving(self._attempts()))


class Writer:
    """Appends to one session in order, numbered so that none is applied twice.

    One writer is one sequence: not for concurrent use. A daemon remembers the sixteen writers of
    a session that wrote last.
    """

    def __init__(
        self,
        session: str,
        answer: Callable[[Flow[AppendResult]], AppendResult],
        new_attempts: Callable[[], Attempts],
    ) -> None:
        self.session = session
        self._answer = answer
        self._new_attempts = new_attempts
        self._numbers = _append.WriterNumbers()

    def append(
        self,
        content: _requests.Content | Sequence[_requests.Content],
        *,
        role: Role = Role.USER,
        expected_offset: Offset | None = None,
    ) -> AppendResult:
        """See `Client.append`."""
        flow = _calls.append(
            self.session, self._numbers, content, role, expected_offset, self._new_attempts()
        )
        return self._answer(flow)
