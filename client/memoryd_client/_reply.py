"""The flows of Query and Chat, and what a reply knows of itself.

A query leaves no trace, so it is asked again as long as no text was delivered; after that a
second answer might differ, and the break is the caller's to handle. A chat is sent again with
its request id: the daemon replays the stored reply from its start, and what was delivered is
skipped.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from memoryd_client import _responses
from memoryd_client._errors import MemorydError, Unreachable
from memoryd_client._flow import Emit, Flow, Open, Read, Rpc, Sleep
from memoryd_client._retry import Attempts
from memoryd_client._types import Completion, Progress
from memoryd_proto.v1 import memory_pb2

OnProgress = Callable[[Progress], None]

CANCEL_SECONDS = 5.0
"""For the one try to close the turn of a reply that is left: otherwise its time-out does."""


@dataclass
class ReplyState:
    """What has arrived of a reply.

    sent: the request is on its way. ended: nothing more comes, for whatever reason.
    characters, token_ids: delivered so far, over all attempts.
    """

    on_progress: OnProgress | None
    sent: bool = False
    ended: bool = False
    completion: Completion | None = None
    characters: int = 0
    token_ids: list[int] = field(default_factory=list)

    @property
    def under_way(self) -> bool:
        return self.sent and not self.ended

    def finished(self) -> Completion:
        """The end of the reply; RuntimeError while it is still being written."""
        if self.completion is None:
            raise RuntimeError(
                "The reply is not finished. Read it to the end first, for example with text()."
            )
        return self.completion


def query(request: memory_pb2.QueryRequest, state: ReplyState, attempts: Attempts) -> Flow[str]:
    """Ask; emits text deltas."""
    while True:
        try:
            yield from _read(Rpc("memory", "Query"), request, state, attempts)
        except MemorydError as error:
            if state.token_ids or state.characters:
                raise
            yield Sleep(attempts.pause_after(error))
        else:
            return


def chat(request: memory_pb2.ChatRequest, state: ReplyState, attempts: Attempts) -> Flow[str]:
    """Say something and emit the reply's text deltas."""
    while True:
        delivered = state.characters
        try:
            yield from _read(Rpc("memory", "Chat"), request, state, attempts)
        except MemorydError as error:
            if state.characters > delivered:
                attempts.progress()
            try:
                pause = attempts.pause_after(error)
            except MemorydError:
                state.ended = True
                raise
            yield Sleep(pause)
        else:
            state.ended = True
            return


def _read(
    rpc: Rpc,
    request: memory_pb2.QueryRequest | memory_pb2.ChatRequest,
    state: ReplyState,
    attempts: Attempts,
) -> Flow[str]:
    # Deltas of a replay may be cut elsewhere than the first time: count characters, not deltas.
    skip_characters, skip_tokens = state.characters, len(state.token_ids)
    request.report_progress = state.on_progress is not None
    state.sent = True
    yield Open(rpc, request, attempts.time_left())
    while (response := (yield Read())) is not None:
        match response.WhichOneof("event"):
            case "progress" if state.on_progress is not None:
                progress = response.progress
                state.on_progress(Progress(progress.absorbed_tokens, progress.target_tokens))
            case "delta":
                text, token_ids = response.delta.text, list(response.delta.token_ids)
                fresh = text[skip_characters:]
                state.token_ids += token_ids[skip_tokens:]
                skip_characters = max(0, skip_characters - len(text))
                skip_tokens = max(0, skip_tokens - len(token_ids))
                state.characters += len(fresh)
                if fresh:
                    yield Emit(fresh)
            case "completion":
                state.completion = _responses.completion(response.completion)
    if state.completion is None:
        raise Unreachable("The reply broke off before its end. Ask again.")
