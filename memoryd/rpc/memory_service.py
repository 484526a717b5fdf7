"""MemoryService: appending, asking, chatting."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

from memoryd.errors import BadArgument, EmptyStream, InvalidUtf8Content, OwnershipLost
from memoryd.rpc import convert
from memoryd.rpc.calls import Call, Servicer, streaming, unary
from memoryd.sessions.actor import SessionActor
from memoryd.sessions.chatting import Exchange, cancel_chat, chat
from memoryd.sessions.query import Freshness, Question, query
from memoryd.sessions.reply import Delta, ReplyEvent
from memoryd.sessions.writers import Ack
from memoryd_proto.v1 import memory_pb2, memory_pb2_grpc, types_pb2

_PATH = "/memoryd.v1.MemoryService/"
STREAM_WINDOW_BYTES = 64 << 10  # of a stream, read and not yet in the journal
QUERY_ATTEMPTS = 3

_FRESHNESS = {
    memory_pb2.FRESHNESS_UNSPECIFIED: Freshness.ACKED,
    memory_pb2.FRESHNESS_ACKED: Freshness.ACKED,
    memory_pb2.FRESHNESS_ABSORBED: Freshness.ABSORBED,
}


class MemoryService(Servicer, memory_pb2_grpc.MemoryServiceServicer):
    """See memory.proto."""

    @unary(_PATH + "Append", memory_pb2.AppendResponse)
    async def Append(  # noqa: N802
        self, request: memory_pb2.AppendRequest, call: Call
    ) -> memory_pb2.AppendResponse:
        writer, seq = convert.writer(request.writer_id, request.seq, required=False)
        pieces = convert.pieces(request.pieces)
        has_offset = request.HasField("expected_offset")
        expected = convert.position(request.expected_offset) if has_offset else None
        actor = await self.owned(call, request.session)
        with actor.used():
            await self.quotas.admit_append(call.tenant)
            ack = await actor.append(pieces, writer=writer, seq=seq, expected=expected)
        return memory_pb2.AppendResponse(
            offset=types_pb2.Offset(generation=actor.generation, tokens=ack.next),
            tail_bytes=ack.tail_bytes,
            replayed=ack.replayed,
        )

    @streaming(_PATH + "AppendStream", memory_pb2.AppendStreamResponse)
    async def AppendStream(  # noqa: N802
        self, requests: AsyncIterator[memory_pb2.AppendStreamRequest], call: Call
    ) -> AsyncGenerator[memory_pb2.AppendStreamResponse]:
        first = await anext(requests, None)
        if first is None:
            raise EmptyStream("the stream ended before its first message")
        actor = await self.owned(call, first.session)
        with actor.used():
            async with aclosing(self._acks(actor, call, first, requests)) as acks:
                async for seq, ack in acks:
                    yield memory_pb2.AppendStreamResponse(
                        seq=seq,
                        offset=types_pb2.Offset(generation=actor.generation, tokens=ack.next),
                        tail_bytes=ack.tail_bytes,
                        absorbed_tokens=actor.absorbed,
                    )

    async def _acks(
        self,
        actor: SessionActor,
        call: Call,
        first: memory_pb2.AppendStreamRequest,
        requests: AsyncIterator[memory_pb2.AppendStreamRequest],
    ) -> AsyncGenerator[tuple[int, Ack]]:
        """Journals the stream's messages, at most STREAM_WINDOW_BYTES of them at a time."""
        window = _Window()
        reader = asyncio.ensure_future(self._read(actor, call, first, requests, window))
        try:
            while (item := await window.next()) is not None:
                seq, appended = item
                yield seq, await appended
                window.acked(seq)
            await reader
        finally:
            reader.cancel()

    async def _read(
        self,
        actor: SessionActor,
        call: Call,
        first: memory_pb2.AppendStreamRequest,
        requests: AsyncIterator[memory_pb2.AppendStreamRequest],
        window: "_Window",
    ) -> None:
        """Hands messages to the actor while there is room."""
        soft_limit = self.host.settings.backlog_soft_tokens
        message: memory_pb2.AppendStreamRequest | None = first
        try:
            while message is not None:
                self.check(message)
                if message.session not in ("", first.session):
                    raise BadArgument("session: one stream writes to one session", field="session")
                if message.writer_id not in ("", first.writer_id):
                    raise BadArgument("writer_id: one stream has one writer", field="writer_id")
                writer, seq = convert.writer(first.writer_id, message.seq, required=True)
                pieces = convert.pieces(message.pieces)
                await self.quotas.admit_append(call.tenant)
                await actor.wait_absorbed(soft_limit)
                size = message.ByteSize()
                await window.room(size)
                append = actor.append(pieces, writer=writer, seq=seq, expected=None)
                window.put(seq, size, asyncio.ensure_future(append))
                message = await anext(requests, None)
        finally:
            window.close()

    @streaming(_PATH + "Query", memory_pb2.QueryResponse)
    async def Query(  # noqa: N802
        self, request: memory_pb2.QueryRequest, call: Call
    ) -> AsyncGenerator[memory_pb2.QueryResponse]:
        if request.freshness not in _FRESHNESS:
            raise BadArgument("freshness: not a value of the enum", field="freshness")
        if not (request.question or request.raw):
            raise BadArgument("question: may be empty only with raw", field="question")
        question = Question(
            text=request.question,
            reply_prefix=request.reply_prefix,
            raw=request.raw,
            freshness=_FRESHNESS[request.freshness],
            min_offset=(
                convert.position(request.min_offset) if request.HasField("min_offset") else None
            ),
            report_progress=request.report_progress,
            allow_stale=request.allow_stale,
            options=convert.reply_options(request.sampling, self.manager.services.limits),
        )
        for attempt in range(1, QUERY_ATTEMPTS + 1):
            answered = False
            try:
                actor = await self.owned(call, request.session)
                with actor.used(), self.host.admission.place(call.tenant):
                    async with (
                        self.quotas.reply(call.tenant, remembered=False),
                        aclosing(query(actor, question)) as events,
                    ):
                        async for event in self._counted(events, call):
                            if isinstance(event, Delta):
                                answered = True
                                self.quotas.charge(call.tenant, len(event.token_ids))
                            yield memory_pb2.QueryResponse(**convert.reply_event(event))
            except OwnershipLost:
                if answered or attempt == QUERY_ATTEMPTS:
                    raise
            else:
                return

    @streaming(_PATH + "Chat", memory_pb2.ChatResponse)
    async def Chat(  # noqa: N802
        self, request: memory_pb2.ChatRequest, call: Call
    ) -> AsyncGenerator[memory_pb2.ChatResponse]:
        convert.identifier(request.request_id, "request_id", convert.MAX_REQUEST_ID_BYTES)
        if not request.message:
            raise BadArgument("message: must not be empty", field="message")
        try:
            request.message.decode()
        except UnicodeDecodeError as error:
            raise InvalidUtf8Content(
                f"byte {error.start} of the message is not UTF-8; nothing of it was kept",
                byte=error.start,
            ) from None
        exchange = Exchange(
            request_id=request.request_id,
            message=request.message,
            report_progress=request.report_progress,
            options=convert.reply_options(request.sampling, self.manager.services.limits),
        )
        actor = await self.owned(call, request.session)
        with actor.used(), self.host.admission.place(call.tenant):
            async with (
                self.quotas.reply(call.tenant, remembered=True),
                aclosing(chat(actor, exchange)) as events,
            ):
                async for event in self._counted(events, call):
                    yield memory_pb2.ChatResponse(**convert.reply_event(event))

    @unary(_PATH + "CancelChat", memory_pb2.CancelChatResponse)
    async def CancelChat(  # noqa: N802
        self, request: memory_pb2.CancelChatRequest, call: Call
    ) -> memory_pb2.CancelChatResponse:
        convert.identifier(request.request_id, "request_id", convert.MAX_REQUEST_ID_BYTES)
        actor = await self.owned(call, request.session)
        with actor.used():
            await cancel_chat(actor, request.request_id)
        return memory_pb2.CancelChatResponse(
            offset=types_pb2.Offset(generation=actor.generation, tokens=actor.log.next)
        )

    async def _counted(
        self, events: AsyncIterator[ReplyEvent], call: Call
    ) -> AsyncIterator[ReplyEvent]:
        """The same events; the metrics get to know of the text in them."""
        metrics, silent = self.host.metrics, True
        async for event in events:
            if isinstance(event, Delta):
                metrics.replied(call.tenant, len(event.token_ids))
                if silent:
                    metrics.first_text(call.arrival.rpc, call.arrival.seconds)
                silent = False
            yield event


class _Window:
    """Appends of one stream that are under way, in order."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[tuple[int, asyncio.Future[Ack]] | None] = asyncio.Queue()
        self._sizes: dict[int, int] = {}
        self._room = asyncio.Event()

    async def room(self, size: int) -> None:
        """Waits until `size` more bytes fit, or nothing is under way."""
        while self._sizes and sum(self._sizes.values()) + size > STREAM_WINDOW_BYTES:
            self._room.clear()
            await self._room.wait()

    def put(self, seq: int, size: int, appended: "asyncio.Future[Ack]") -> None:
        self._sizes[seq] = size
        # The first failure ends the stream; those behind it need no hearer.
        appended.add_done_callback(lambda done: done.cancelled() or done.exception())
        self._queue.put_nowait((seq, appended))

    def acked(self, seq: int) -> None:
        self._sizes.pop(seq, None)
        self._room.set()

    def close(self) -> None:
        self._queue.put_nowait(None)

    async def next(self) -> "tuple[int, asyncio.Future[Ack]] | None":
        return await self._queue.get()
