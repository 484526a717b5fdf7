"""What every call has in common: credentials, request id, errors, forwarding, draining."""

import asyncio
import functools
from collections import Counter
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
)
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeVar

import grpc
import structlog
from google.protobuf.message import Message

from memoryd.config import Settings
from memoryd.engine.messages import EngineInfo
from memoryd.errors import (
    DeadlinePassed,
    Draining,
    MemorydError,
    MessageTooLarge,
    OwnershipLost,
)
from memoryd.metrics import Metrics, Snapshot
from memoryd.quotas.quotas import Quotas
from memoryd.rpc import permissions
from memoryd.rpc.admission import Admission
from memoryd.rpc.arrival import Arrival
from memoryd.rpc.auth import Authenticator
from memoryd.rpc.decoding import Undecodable
from memoryd.rpc.forward import HOP_KEY, Peers, RemoteError
from memoryd.rpc.status import abort
from memoryd.scopes import ALL_SCOPES, Scope
from memoryd.sessions.actor import SessionActor
from memoryd.sessions.manager import Remote, SessionManager
from memoryd.storage.api_keys import ApiKeyStore
from memoryd.storage.keys import SessionKey
from memoryd.tracing import Tracing

logger = structlog.get_logger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]
Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=Message)

CANCELLED = "CANCELLED"


@dataclass
class Host:
    """The daemon as the services see it.

    address: what other daemons reach it at. running: tasks of the calls under way.
    drained: set when no more calls are taken. shut_down: asks the process to end.
    """

    settings: Settings
    manager: SessionManager
    info: EngineInfo
    authenticator: Authenticator
    api_keys: ApiKeyStore
    admission: Admission
    metrics: Metrics
    tracing: Tracing
    peers: Peers
    address: str
    storage_name: str
    durability: str
    start_ms: int
    shut_down: Callable[[], None]
    draining: asyncio.Event = field(default_factory=asyncio.Event)
    running: set["asyncio.Task[Any]"] = field(default_factory=set)
    _drained: "asyncio.Task[int] | None" = None

    def snapshot(self) -> Snapshot:
        """What the metrics show of this moment; safe to call from another thread."""
        actors = self.manager.actors
        backlog: dict[str, int] = {}
        for actor in actors:
            tenant = actor.record.key.tenant
            backlog[tenant] = backlog.get(tenant, 0) + actor.backlog
        return Snapshot(
            engine=self.manager.services.engine.stats(),
            sessions=Counter(actor.record.key.tenant for actor in actors),
            backlog=backlog,
            replies=self.admission.taken,
            draining=self.draining.is_set(),
        )

    async def drain(self) -> int:
        """Takes no more calls, lets those under way end, and releases every session.

        Gives the number of sessions. Called again it waits for the same end.
        """
        if self._drained is None:
            self._drained = asyncio.ensure_future(self._drain())
        return await asyncio.shield(self._drained)

    async def _drain(self) -> int:
        self.draining.set()
        if self.running:
            _, late = await asyncio.wait(self.running, timeout=self.settings.drain_timeout)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late)
        return await self.manager.drain()


@dataclass(frozen=True)
class Call:
    """One call: who makes it, and whether another daemon passed it on."""

    tenant: str
    request_id: str
    forwarded: bool
    arrival: Arrival
    scopes: frozenset[Scope] = ALL_SCOPES

    def key(self, name: str) -> SessionKey:
        """The session that the caller means by `name`. Raises BadArgument."""
        return SessionKey(self.tenant, name)


class Elsewhere(Exception):
    """The session's owner is at `address`; the call is passed on."""

    def __init__(self, address: str) -> None:
        super().__init__(address)
        self.address = address


class Servicer:
    """Base of the three services."""

    def __init__(self, host: Host) -> None:
        self.host = host

    @property
    def manager(self) -> SessionManager:
        return self.host.manager

    @property
    def quotas(self) -> Quotas:
        return self.host.manager.services.quotas

    async def owned(self, call: Call, name: str) -> SessionActor:
        """The session's actor; use it before the next await. Raises Elsewhere."""
        found = await self.manager.locate(call.key(name))
        if isinstance(found, Remote):
            self.elsewhere(call, found.address)
        return found

    def elsewhere(self, call: Call, address: str) -> NoReturn:
        """Passes the call on, unless it was passed on already. Raises Elsewhere, OwnershipLost."""
        if call.forwarded:
            raise OwnershipLost(f"the session has just moved to {address}; retry", retry_after=0.1)
        raise Elsewhere(address)

    def check(self, request: Message | Undecodable) -> None:
        """Refuses what is no message of the call, and what is too large."""
        if isinstance(request, Undecodable):
            raise request.refusal
        limit = self.host.settings.max_message_bytes
        if (size := request.ByteSize()) > limit:
            raise MessageTooLarge(
                f"the message is {size} bytes, at most {limit} are taken: cut it into pieces",
                size=size,
                limit=limit,
            )


@asynccontextmanager
async def _entered(servicer: Servicer, context: Context, arrival: Arrival) -> AsyncGenerator[Call]:
    """Checks credentials and deadline, binds the log, and counts the call as running."""
    host = servicer.host
    task = asyncio.current_task()
    assert task is not None  # noqa: S101  a handler always runs in a task
    with structlog.contextvars.bound_contextvars(request_id=arrival.request_id, rpc=arrival.path):
        caller = await host.authenticator.caller(arrival.metadata)
        arrival.tenant = caller.tenant
        structlog.contextvars.bind_contextvars(tenant=caller.tenant)
        permissions.check(caller, arrival.path)
        if host.draining.is_set() and not arrival.path.startswith("/memoryd.v1.AdminService/"):
            raise Draining("this daemon is shutting down; retry at another one", retry_after=0.5)
        left = context.time_remaining()
        if left is not None and left <= 0:
            raise DeadlinePassed("the call's time was over before its work began")
        host.running.add(task)
        try:
            with host.authenticator.call_by(caller):
                yield Call(
                    tenant=caller.tenant,
                    request_id=arrival.request_id,
                    forwarded=HOP_KEY in arrival.metadata,
                    arrival=arrival,
                    scopes=caller.scopes,
                )
        finally:
            host.running.discard(task)


@asynccontextmanager
async def _answered(servicer: Servicer, context: Context, arrival: Arrival) -> AsyncGenerator[Call]:
    """The call, from its arrival to its end: a span, figures, and whatever goes wrong a status."""
    host = servicer.host
    try:
        with host.tracing.span(arrival):
            try:
                async with _entered(servicer, context, arrival) as call:
                    yield call
            except asyncio.CancelledError as cancelled:
                await _fail(context, _cut_off(host, arrival, cancelled), arrival)
            except Exception as error:  # noqa: BLE001  the edge: each becomes a status
                await _fail(context, error, arrival)
    finally:
        host.metrics.call_ended(arrival.rpc, arrival.tenant, arrival.outcome, arrival.seconds)


async def _fail(context: Context, error: Exception, arrival: Arrival) -> NoReturn:
    """Ends the call with what the error says."""
    if isinstance(error, RemoteError):
        arrival.outcome = error.code.name
        await context.abort(error.code, error.message, (*error.trailers, *arrival.trailers))
    if not isinstance(error, MemorydError):
        logger.error("call_broke", exc_info=error)
        error = MemorydError(
            f"a fault of the daemon; its log names it under request id {arrival.request_id}"
        )
    elif error.reason is MemorydError.reason:
        logger.error("call_failed", error=error.message)
    arrival.outcome = error.reason.value
    await abort(context, error, arrival.request_id, arrival.trailers)


def _cut_off(host: Host, arrival: Arrival, cancelled: asyncio.CancelledError) -> MemorydError:
    """What ends a call that the daemon broke off; one that its caller left just ends."""
    if (revoked := host.authenticator.why_cut_off()) is not None:
        return revoked
    if not host.draining.is_set():
        arrival.outcome = CANCELLED
        raise cancelled
    return Draining("this daemon is shutting down; retry at another one", retry_after=0.5)


def unary(
    path: str, response_type: type[Response]
) -> Callable[
    [Callable[[Any, Any, Call], Awaitable[Response]]],
    Callable[[Any, Any, Context], Awaitable[Response]],
]:
    """A handler of one request and one response, given a Call in place of grpc's context."""

    def decorate(
        handler: Callable[[Any, Any, Call], Awaitable[Response]],
    ) -> Callable[[Any, Any, Context], Awaitable[Response]]:
        @functools.wraps(handler)
        async def handle(self: Servicer, request: Any, context: Context) -> Response:
            arrival, host = Arrival.of(context, path), self.host
            async with _answered(self, context, arrival) as call:
                try:
                    if isinstance(request, (Message, Undecodable)):
                        self.check(request)
                    return await handler(self, request, call)
                except Elsewhere as owner:
                    host.metrics.forwarded(arrival.rpc)
                    forwarded: Any = await host.peers.unary(
                        owner.address, path, request, response_type, context, arrival.headers
                    )
                    return forwarded  # type: ignore[no-any-return]

        return handle

    return decorate


def streaming(
    path: str, response_type: type[Response]
) -> Callable[
    [Callable[[Any, Any, Call], AsyncGenerator[Response]]],
    Callable[[Any, Any, Context], AsyncIterator[Response]],
]:
    """A handler that streams responses to one request or to a stream of them."""

    def decorate(
        handler: Callable[[Any, Any, Call], AsyncGenerator[Response]],
    ) -> Callable[[Any, Any, Context], AsyncIterator[Response]]:
        @functools.wraps(handler)
        async def handle(self: Servicer, request: Any, context: Context) -> AsyncIterator[Response]:
            arrival, host = Arrival.of(context, path), self.host
            requests = (
                None
                if isinstance(request, (Message, Undecodable))
                else Requests(request, host.draining)
            )
            async with _answered(self, context, arrival) as call:
                try:
                    if requests is None:
                        self.check(request)
                    async with aclosing(handler(self, requests or request, call)) as responses:
                        async for response in responses:
                            yield response
                except Elsewhere as owner:
                    host.metrics.forwarded(arrival.rpc)
                    sent = request if requests is None else requests.passed_on()
                    async with aclosing(
                        host.peers.stream(
                            owner.address, path, sent, response_type, context, arrival.headers
                        )
                    ) as responses:
                        async for forwarded in responses:
                            yield forwarded  # type: ignore[misc]
                    if requests is not None and requests.cut_off is not None:
                        raise requests.cut_off from None

        return handle

    return decorate


class Requests(AsyncIterator[Any]):
    """A stream of requests; raises Draining where the daemon drains before the next one comes."""

    def __init__(self, requests: AsyncIterable[Any], draining: asyncio.Event) -> None:
        self.cut_off: Draining | None = None
        self._requests = aiter(requests)
        self._draining = draining
        self._first: Any = None

    def __aiter__(self) -> "Requests":
        return self

    async def __anext__(self) -> Any:
        coming = asyncio.ensure_future(anext(self._requests, None))
        draining = asyncio.ensure_future(self._draining.wait())
        try:
            await asyncio.wait({coming, draining}, return_when=asyncio.FIRST_COMPLETED)
            if not coming.done():
                self.cut_off = Draining(
                    "this daemon is shutting down; go on behind the last ack at another one",
                    retry_after=0.5,
                )
                raise self.cut_off
        finally:
            coming.cancel()
            draining.cancel()
        request = coming.result()
        if request is None:
            raise StopAsyncIteration
        if self._first is None:
            self._first = request
        return request

    async def passed_on(self) -> AsyncGenerator[Any]:
        """All requests for the session's owner, of which only the first one may have been read.

        Ends where the daemon drains, so that the owner acknowledges what it was sent.
        """
        if self._first is not None:
            yield self._first
        try:
            async for request in self:
                yield request
        except Draining:
            return
