"""Asking leaves the memory as it was, and a question that nobody waits for costs nothing."""

import pytest

from harness.processes import wait_until
from harness.streams import ENDLESS, GREEDY, absorbed, prose
from memoryd_client import Client, Freshness, Piece, Progress, Role, Sampling


@pytest.mark.parametrize(
    "asking",
    [
        {"sampling": GREEDY},
        {"sampling": Sampling(temperature=1.5, seed=1, max_tokens=64)},
        {"sampling": GREEDY, "raw": True},
        {"sampling": GREEDY, "freshness": Freshness.ABSORBED},
        {"sampling": GREEDY, "reply_prefix": "The answer"},
    ],
    ids=["greedy", "sampled", "raw", "absorbed", "prefixed"],
)
def test_a_query_leaves_the_session_as_it_was(
    client: Client, name: str, asking: dict[str, object]
) -> None:
    client.create_session(name)
    # An open turn with bytes that are no token yet: the query closes it on its copy only.
    stream = client.append(name, Piece(Role.USER, prose(seed=1, words=60) + " remem", open=True))
    assert stream.tail_bytes > 0
    before = absorbed(client, name)
    checksum = client.inspect(name, limit=1).state_checksum
    reply = client.query(name, "What was said?", **asking)  # type: ignore[arg-type]
    assert reply.text()
    assert reply.completion.usage.completion_tokens == len(reply.token_ids)
    after = absorbed(client, name)
    assert after.offset == before.offset == stream.offset
    assert after.tail_bytes == before.tail_bytes
    assert client.inspect(name, limit=1).state_checksum == checksum


def test_the_same_question_gets_the_same_answer(client: Client, name: str) -> None:
    client.create_session(name)
    client.append(name, prose(seed=2, words=40))
    first = client.query(name, "And?", sampling=GREEDY).text()
    assert client.query(name, "And?", sampling=GREEDY).text() == first


def test_a_query_sees_what_was_acknowledged_before_it(client: Client, name: str) -> None:
    client.create_session(name)
    for seed in range(3):
        acked = client.append(name, prose(seed, words=200)).offset.tokens
        reply = client.query(name, "And now?", sampling=Sampling(max_tokens=1))
        reply.text()
        assert reply.completion.usage.memory_tokens == acked


def test_a_cancelled_query_frees_its_lane(client: Client, name: str) -> None:
    client.create_session(name)
    client.append(name, prose(seed=3, words=40))
    wait_until(lambda: client.get_stats().lanes_used == 0, "replies before it have ended")
    reply = client.query(name, "Go on.", sampling=Sampling(max_tokens=ENDLESS))
    next(iter(reply))
    assert client.get_stats().lanes_used == 1
    reply.close()
    wait_until(lambda: client.get_stats().lanes_used == 0, "the lane is free")


def test_a_query_cancelled_while_it_waits_never_takes_a_lane(client: Client, name: str) -> None:
    client.create_session(name)
    client.append(name, prose(seed=4, words=1200))

    def leave(progress: Progress) -> None:
        assert progress.absorbed_tokens < progress.target_tokens
        raise CallerLeaves

    with pytest.raises(CallerLeaves):
        client.query(name, "And?", sampling=GREEDY, on_progress=leave).text()
    generated = client.get_stats().tokens_generated
    absorbed(client, name)
    stats = client.get_stats()
    assert (stats.lanes_used, stats.tokens_generated) == (0, generated)


class CallerLeaves(Exception):
    pass
