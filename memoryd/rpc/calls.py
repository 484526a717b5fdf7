"""What every call has in common: credentials, request id, errors, forwarding, draining."""

import asyncio
import functools
import uuid
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeVar

import grpc
import structlog
from google.protobuf.message import Message

from memoryd.config import Settings
from memoryd.engine.messages import EngineInfo
from memoryd.errors import Draining, MemorydError, MessageTooLarge, OwnershipLost
from memoryd.rpc.auth import Authenticator
from memoryd.rpc.forward import HOP_KEY, Peers, RemoteError
from memoryd.rpc.status import abort
from memoryd.sessions.actor import SessionActor
from memoryd.sessions.manager import Remote, SessionManager
from memoryd.storage.keys import SessionKey

logger = structlog.get_logger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]
Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=Message)
Result = TypeVar("Result")

REQUEST_ID_KEY = "x-request-id"
MAX_REQUEST_ID = 128


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
    peers: Peers
    address: str
    storage_name: str
    durability: str
    start_ms: int
    shut_down: Callable[[], None]
    draining: asyncio.Event = field(default_factory=asyncio.Event)
    running: set["asyncio.Task[Any]"] = field(default_factory=set)
    _drained: "asyncio.Task[int] | None" = None

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

    def check_size(self, request: Message) -> None:
        limit = self.host.settings.max_message_bytes
        if (size := request.ByteSize()) > limit:
            raise MessageTooLarge(
                f"the message is {size} bytes, at most {limit} are taken: cut it into pieces",
                size=size,
                limit=limit,
            )


async def detached(work: Awaitable[Result]) -> Result:
    """Waits for work that goes on if the caller is cancelled.

    A command that is broken off would leave its reply behind on a Redis connection.
    """
    return await asyncio.shield(asyncio.ensure_future(work))


@contextmanager
def _entered(servicer: Servicer, context: Context, path: str) -> Any:
    """Checks credentials, binds the log, and counts the call as running."""
    host = servicer.host
    metadata = {
        key: value if isinstance(value, str) else value.decode("latin-1")
        for key, value in context.invocation_metadata() or ()
    }
    request_id = metadata.get(REQUEST_ID_KEY, "")
    if not (0 < len(request_id) <= MAX_REQUEST_ID and request_id.isprintable()):
        request_id = uuid.uuid4().hex
    task = asyncio.current_task()
    assert task is not None  # noqa: S101  a handler always runs in a task
    with structlog.contextvars.bound_contextvars(request_id=request_id, rpc=path):
        call = Call(
            tenant=host.authenticator.tenant(metadata),
            request_id=request_id,
            forwarded=HOP_KEY in metadata,
        )
        if host.draining.is_set() and not path.startswith("/memoryd.v1.AdminService/"):
            raise Draining("this daemon is shutting down; retry at another one", retry_after=0.5)
        structlog.contextvars.bind_contextvars(tenant=call.tenant)
        host.running.add(task)
        try:
            yield call
        finally:
            host.running.discard(task)


async def _fail(context: Context, error: Exception) -> NoReturn:
    """Ends the call with what the error says."""
    if isinstance(error, RemoteError):
        await context.abort(error.code, error.message, tuple(error.trailers))
    if isinstance(error, MemorydError):
        if error.reason is MemorydError.reason:
            logger.error("call_failed", error=error.message)
        await abort(context, error)
    logger.error("call_broke", exc_info=error)
    await abort(context, MemorydError("a fault of the daemon; its log has the request id"))


def _cut_off(servicer: Servicer, cancelled: asyncio.CancelledError) -> Draining:
    """What ends a call that outlasted the drain; a call that its caller left just ends."""
    if not servicer.host.draining.is_set():
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
            try:
                with _entered(self, context, path) as call:
                    try:
                        if isinstance(request, Message):
                            self.check_size(request)
                        return await handler(self, request, call)
                    except Elsewhere as owner:
                        forwarded: Any = await self.host.peers.unary(
                            owner.address, path, request, response_type, context
                        )
                        return forwarded  # type: ignore[no-any-return]
            except asyncio.CancelledError as cancelled:
                await _fail(context, _cut_off(self, cancelled))
            except Exception as error:  # noqa: BLE001  the edge: each becomes a status
                await _fail(context, error)

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
            draining = self.host.draining
            requests = None if isinstance(request, Message) else Requests(request, draining)
            try:
                with _entered(self, context, path) as call:
                    try:
                        if requests is None:
                            self.check_size(request)
                        async with aclosing(handler(self, requests or request, call)) as responses:
                            async for response in responses:
                                yield response
                    except Elsewhere as owner:
                        sent = request if requests is None else requests.passed_on()
                        async with aclosing(
                            self.host.peers.stream(
                                owner.address, path, sent, response_type, context
                            )
                        ) as responses:
                            async for forwarded in responses:
                                yield forwarded  # type: ignore[misc]
                        if requests is not None and requests.cut_off is not None:
                            raise requests.cut_off from None
            except asyncio.CancelledError as cancelled:
                await _fail(context, _cut_off(self, cancelled))
            except Exception as error:  # noqa: BLE001  the edge: each becomes a status
                await _fail(context, error)

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
