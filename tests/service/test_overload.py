"""More is asked than can be done: refused early, dropped when too late, and nobody pays for it."""

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

from harness.calls import Calls, refusal, refused_for
from harness.daemons import DaemonProcess
from harness.processes import wait_until
from harness.scrape import Figures, scrape
from harness.streams import ENDLESS
from memoryd_proto.errors import Reason
from memoryd_proto.v1 import memory_pb2, types_pb2


@dataclass(frozen=True)
class Narrow:
    """One lane, and one place to wait for it."""

    calls: Calls
    port: int

    def figures(self) -> Figures:
        return scrape(self.port)

    def endless(self, session: str, **options: Any) -> Any:
        """A query that goes on until it is cancelled."""
        request = memory_pb2.QueryRequest(
            session=session,
            question=b"Go on.",
            sampling=types_pb2.Sampling(max_tokens=ENDLESS, temperature=2.0, seed=1),
        )
        return self.calls.memory.Query(request, **options)


@pytest.fixture(scope="module")
def narrow(tiny_model: Path) -> Iterator[Narrow]:
    folder = Path(tempfile.mkdtemp(prefix="mds"))
    daemon = DaemonProcess(
        folder,
        model=tiny_model,
        lanes=1,
        max_waiting_replies=1,
        max_reply_tokens=ENDLESS,
        metrics_listen="127.0.0.1:0",
    )
    with Calls(daemon.address) as calls:
        yield Narrow(calls, daemon.wait_for("metrics")["port"])
    daemon.end()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def session(narrow: Narrow, name: str) -> Iterator[str]:
    narrow.calls.create(name)
    narrow.calls.append(name, b"There once was a daemon with a single lane.")
    yield name
    wait_until(lambda: narrow.figures()("memoryd_replies") == 0, "all replies are at their end")


@pytest.fixture
def running(narrow: Narrow, session: str) -> Iterator[Any]:
    """A reply that has the only lane."""
    reply = narrow.endless(session)
    next(reply)
    yield reply
    reply.cancel()


def test_more_replies_than_may_wait_are_refused_with_a_delay(narrow, session, running):
    waiting = narrow.endless(session)
    wait_until(lambda: narrow.figures()("memoryd_waiting_replies") == 1, "one waits")
    for call in (
        lambda: narrow.calls.query(session),
        lambda: narrow.calls.chat(session, b"Hello", "a request"),
    ):
        found = refused_for(Reason.LANES_BUSY, call)
        assert found.retry_after > 0
        assert found.facts == {"places": "2"}
    waiting.cancel()
    wait_until(lambda: narrow.figures()("memoryd_replies") == 1, "the place is free again")
    running.cancel()
    assert narrow.calls.query(session)[-1].HasField("completion")


def test_a_query_whose_deadline_passes_while_it_waits_never_reaches_the_model(
    narrow, session, running
):
    found = refusal(lambda: list(narrow.endless(session, timeout=0.5)))
    assert found.code is grpc.StatusCode.DEADLINE_EXCEEDED
    wait_until(lambda: narrow.figures()("memoryd_waiting_replies") == 0, "it waits no more")
    running.cancel()
    wait_until(lambda: narrow.figures()("memoryd_lanes_used") == 0, "the lane is free")
    figures = narrow.figures()
    before = figures("memoryd_engine_generated_tokens_total")
    narrow.calls.query(session, sampling=types_pb2.Sampling(max_tokens=1))
    assert narrow.figures()("memoryd_engine_generated_tokens_total") == before + 1


def test_an_append_whose_deadline_passes_behind_a_chat_is_not_written(narrow, session):
    sampling = types_pb2.Sampling(max_tokens=ENDLESS, temperature=2.0, seed=2)
    chat = narrow.calls.memory.Chat(
        memory_pb2.ChatRequest(session=session, message=b"Hi", request_id="r", sampling=sampling)
    )
    next(chat)  # it holds the session, so what is written now waits
    append = {"content": b"too late", "writer_id": "w", "seq": 1}
    late = refusal(lambda: narrow.calls.append(session, timeout=0.5, **append))
    assert late.code is grpc.StatusCode.DEADLINE_EXCEEDED
    chat.cancel()
    assert not narrow.calls.append(session, **append).replayed
    assert narrow.calls.append(session, **append).replayed
