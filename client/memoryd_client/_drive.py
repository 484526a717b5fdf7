"""The driver that blocks: carries out a flow's effects with grpc's blocking calls."""

import contextlib
import queue
import time
from collections.abc import Generator
from typing import TYPE_CHECKING, Any, TypeVar

import grpc

from memoryd_client._bidi import BidiStream
from memoryd_client._channel import Methods
from memoryd_client._errors import from_failed_call
from memoryd_client._flow import (
    NOTHING_YET,
    CloseWrites,
    Effect,
    Emit,
    Flow,
    Invoke,
    Open,
    Pull,
    Read,
    Sleep,
    Write,
)
from memoryd_client._trace import CallSpan

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

T = TypeVar("T")


class _ServerStream:
    """One request, many responses."""

    def __init__(self, call: Any) -> None:
        self._call = call

    def read(self, *, wait: bool) -> object:
        del wait  # a flow polls bidirectional streams only
        return next(self._call, None)

    def close(self) -> None:
        self._call.cancel()


class _Bidi(BidiStream):
    """A bidirectional stream whose responses wait in a queue."""

    def __init__(self, method: Any, arguments: dict[str, Any]) -> None:
        self._incoming: queue.SimpleQueue[object] = queue.SimpleQueue()
        super().__init__(method, arguments, self._incoming.put)

    def read(self, *, wait: bool) -> object:
        try:
            response = self._incoming.get(block=wait)
        except queue.Empty:
            return NOTHING_YET
        if isinstance(response, grpc.RpcError):
            raise response
        return response

    def close(self) -> None:
        self.cancel()
        self.join()


class Exchange:
    """The effects of one flow."""

    def __init__(
        self,
        methods: Methods,
        metadata: tuple[tuple[str, str], ...],
        tracer: "Tracer | None",
        source: Generator[object, None, None],
    ) -> None:
        self._methods = methods
        self._metadata = metadata
        self._source = source
        self._tracer = tracer
        self._span = CallSpan()
        self._stream: Any = None

    def perform(self, effect: Effect) -> object:
        try:
            return self._perform(effect)
        except grpc.RpcError as error:
            self._span.end(error)
            raise

    def _perform(self, effect: Effect) -> object:
        match effect:
            case Invoke():
                self._span = span = CallSpan(self._tracer, effect.rpc)
                response = self._methods.find(effect.rpc)(
                    effect.request,
                    timeout=effect.timeout,
                    metadata=(*self._metadata, *span.metadata),
                )
                span.end()
                return response
            case Open():
                self._open(effect)
            case Write():
                self._stream.write(effect.message)
            case CloseWrites():
                self._stream.close_writes()
            case Read():
                return self._stream.read(wait=effect.wait)
            case Pull():
                return next(self._source, None)
            case Sleep():
                time.sleep(effect.seconds)
        return None

    def _open(self, effect: Open) -> None:
        self._leave()
        self._span = CallSpan(self._tracer, effect.rpc)
        method = self._methods.find(effect.rpc)
        arguments = {"timeout": effect.timeout, "metadata": (*self._metadata, *self._span.metadata)}
        if effect.request is None:
            self._stream = _Bidi(method, arguments)
        else:
            self._stream = _ServerStream(method(effect.request, **arguments))

    def close(self) -> None:
        """Leave the open call and the source."""
        self._leave()
        self._source.close()

    def _leave(self) -> None:
        # The daemon sees a cancellation, unless the call had ended.
        if self._stream is not None:
            self._stream.close()
            self._stream = None
        self._span.end()


def drive(flow: Flow[T], exchange: Exchange, target: str) -> Generator[T, None, None]:
    """Run `flow` and yield what it emits."""
    result: object = None
    failure: Exception | None = None
    with contextlib.closing(flow), contextlib.closing(exchange):
        while True:
            try:
                effect = flow.send(result) if failure is None else flow.throw(failure)
            except StopIteration:
                return
            result = failure = None
            if isinstance(effect, Emit):
                yield effect.value
                continue
            try:
                result = exchange.perform(effect)
            except grpc.RpcError as error:
                failure = from_failed_call(error, target)  # type: ignore[arg-type]
