"""A bidirectional stream, shared by both clients: it always runs on grpc's blocking API.

grpc.aio replaces the daemon's status by INTERNAL when a write fails as the call ends
(github.com/grpc/grpc/issues/36066), which would hide every reason a stream is refused for.
"""

import queue
import threading
from collections.abc import Callable
from typing import Any

import grpc
from google.protobuf.message import Message


class BidiStream:
    """Messages go out of a queue that grpc reads; a thread hands on what comes in.

    deliver: called on that thread with each response, then with None for the orderly end or with
        the `grpc.RpcError` that ended the call.
    """

    def __init__(
        self,
        method: Callable[..., Any],
        arguments: dict[str, Any],
        deliver: Callable[[object], None],
    ) -> None:
        self._outgoing: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self._deliver = deliver
        self._call = method(iter(self._outgoing.get, None), **arguments)
        self._reader = threading.Thread(target=self._receive, name="memoryd-acks", daemon=True)
        self._reader.start()

    def _receive(self) -> None:
        try:
            for response in self._call:
                self._deliver(response)
            self._deliver(None)
        except grpc.RpcError as error:
            self._deliver(error)

    def write(self, message: Message) -> None:
        """Queue a message; the caller bounds how many."""
        self._outgoing.put(message)

    def close_writes(self) -> None:
        """No more messages come."""
        self._outgoing.put(None)

    def cancel(self) -> None:
        """Leave the call."""
        self._call.cancel()
        self._outgoing.put(None)

    def join(self) -> None:
        """Wait until nothing more is delivered, after the end or `cancel`."""
        self._reader.join()
