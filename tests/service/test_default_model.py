"""The default model behind a real daemon: SmolLM2-135M as a laLTE, from the cache."""

import pydoc_data.topics
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.daemons import DaemonProcess
from harness.processes import wait_until
from lalte.checkpoints.cache import default_model_dir
from memoryd_client import Client, FinishReason, Role, Sampling, Session, Turn

pytestmark = pytest.mark.weights

CHUNK = 64
GREEDY = Sampling(max_tokens=24)
TEXT = pydoc_data.topics.topics["assignment"]


class Daemon:
    """A daemon that a test may kill and start again on the same data."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.process = self._start()

    def _start(self) -> DaemonProcess:
        return DaemonProcess(
            self._folder, model=default_model_dir(), threads=2, checkpoint_tokens=2 * CHUNK
        )

    def client(self) -> Client:
        return self.process.client()

    def kill_and_restart(self) -> None:
        self.process.kill()
        self.process = self._start()


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    folder = Path(tempfile.mkdtemp(prefix="mdw"))
    running = Daemon(folder)
    yield running
    running.process.terminate()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def client(daemon: Daemon) -> Iterator[Client]:
    with daemon.client() as client:
        yield client


def absorbed(client: Client, name: str) -> Session:
    session = client.get_session(name)

    def read() -> bool:
        nonlocal session
        session = client.get_session(name)
        return session.absorbed_tokens == session.acked_tokens // CHUNK * CHUNK

    wait_until(read, f"{name} is absorbed")
    return session


def test_a_question_is_answered_from_the_model_s_knowledge(client: Client) -> None:
    client.create_session("knowledge")
    client.append("knowledge", "The capital of Italy is Rome. The capital of", role=Role.RAW)
    reply = client.query("knowledge", " France is", raw=True, sampling=GREEDY)
    assert "Paris" in reply.text()


def test_a_fact_that_was_just_told_is_answered(client: Client) -> None:
    client.create_session("told")
    client.append("told", [Turn(Role.USER, "My dog is called Bramble and he is four years old.")])
    client.append("told", [Turn(Role.ASSISTANT, "What a lovely name!")])
    assert "Bramble" in client.query("told", "What is my dog called?", sampling=GREEDY).text()


def test_a_chat_leaves_the_memory_that_its_turns_would(client: Client) -> None:
    client.create_session("chat")
    client.create_session("turns")
    question = "My cat is called Pepper. Say hello to her."
    hello = client.chat("chat", question, sampling=Sampling(max_tokens=8)).text()
    client.append("turns", [Turn(Role.USER, question), Turn(Role.ASSISTANT, hello)])
    replies = [
        client.query(name, "What is my cat called?", sampling=GREEDY).text()
        for name in ("chat", "turns")
    ]
    assert replies[0] == replies[1]


def test_a_reply_ends_where_the_model_ends_its_turn(client: Client) -> None:
    client.create_session("ends")
    reply = client.query("ends", "Say only the word yes.", sampling=Sampling(max_tokens=200))
    text = reply.text()
    assert reply.completion.finish_reason is FinishReason.STOP
    assert "<|im_end|>" not in text


def test_special_tokens_in_a_clients_text_stay_text(client: Client) -> None:
    client.create_session("markup")
    plain = client.append("markup", "a b", role=Role.RAW).offset.tokens
    marked = client.append("markup", "<|im_end|>", role=Role.RAW).offset.tokens
    assert marked - plain > 1


def test_the_memory_does_not_depend_on_how_its_text_was_cut(client: Client) -> None:
    """In bf16 on the real shapes, to the bit."""
    checksums = set()
    for name, size in (("whole", len(TEXT)), ("cut", 701)):
        client.create_session(name)
        pieces = [TEXT[at : at + size] for at in range(0, 6000, size)]
        pieces[-1] = pieces[-1][: 6000 - size * (len(pieces) - 1)]
        client.append_stream(name, pieces)
        absorbed(client, name)
        checksums.add(client.inspect(name, limit=1).state_checksum)
    assert len(checksums) == 1


def test_a_killed_daemon_goes_on_with_the_same_memory(daemon: Daemon) -> None:
    with daemon.client() as client:
        client.create_session("killed")
        client.append_stream("killed", TEXT[:4000])
        before = absorbed(client, "killed")
        checksum = client.inspect("killed", limit=1).state_checksum
        answer = client.query("killed", "What is an assignment?", sampling=GREEDY).text()
        wait_until(
            lambda: client.get_session("killed").checkpoint_tokens > 0, "a checkpoint is committed"
        )
    daemon.kill_and_restart()
    with daemon.client() as client:
        client.inspect("killed", limit=1)  # opens the session
        after = absorbed(client, "killed")
        assert after.acked_tokens == before.acked_tokens
        assert client.inspect("killed", limit=1).state_checksum == checksum
        again = client.query("killed", "What is an assignment?", sampling=GREEDY).text()
        assert again == answer


def test_every_head_keeps_the_sinks_and_no_more_than_its_budget(client: Client) -> None:
    client.create_session("kept")
    client.append_stream("kept", TEXT[:4000])
    absorbed(client, "kept")
    heads = client.inspect("kept").heads
    assert heads
    for head in heads:
        assert 4 <= head.kept <= head.budget
        assert {token.position for token in head.tokens if token.sink} == {0, 1, 2, 3}


def test_the_state_s_size_is_what_the_model_says(client: Client) -> None:
    client.create_session("size")
    client.append_stream("size", TEXT[:4000])
    model = client.get_model()
    wait_until(lambda: client.get_session("size").state_bytes > 0, "a checkpoint is committed")
    header = client.get_session("size").state_bytes - model.state_bytes
    assert 0 < header < 32_768
