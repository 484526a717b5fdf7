"""What was altered in Redis is refused by name and never served; everything else goes on."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis

from harness.calls import CHUNK, Calls, Held, refused_for
from harness.daemons import DaemonProcess
from harness.redis_servers import RedisProcess, server_binaries
from memoryd.storage.keys import SessionKey
from memoryd_proto.errors import Reason
from memoryd_proto.v1 import memory_pb2, types_pb2


@dataclass
class Stored:
    """A session as it lies in Redis, with nobody holding it."""

    raw: "redis.Redis"
    name: str

    @property
    def key(self) -> SessionKey:
        return SessionKey("default", self.name)

    def meta(self, field: str) -> str:
        return self.raw.hget(self.key.meta, field).decode()

    @property
    def blob(self) -> str:
        return self.key.blob(self.meta("generation"), self.meta("blob_attempt"))

    @property
    def journal(self) -> str:
        return self.key.journal(self.meta("generation"))

    def alter_part(self, change: Callable[[bytes], bytes]) -> None:
        self.raw.hset(self.blob, "0", change(self.raw.hget(self.blob, "0")))


def flipped(body: bytes, at: int) -> bytes:
    changed = bytearray(body)
    changed[at] ^= 0x10
    return bytes(changed)


def replace_last_entry(stored: Stored, tokens: bytes) -> None:
    """A stream's entries cannot be changed, but the whole stream can be written anew."""
    [(name, _)] = stored.raw.xrevrange(stored.journal, count=1)
    stored.raw.delete(stored.journal)
    stored.raw.xadd(stored.journal, {"t": tokens}, id=name)


def copy_from_the_good_one(stored: Stored) -> None:
    """Another session's checkpoint, whole and with its checksum."""
    good = Stored(stored.raw, "good")
    for field in ("blob_offset", "blob_nbytes", "blob_digest"):
        stored.raw.hset(stored.key.meta, field, good.meta(field))
    stored.raw.delete(stored.blob)
    stored.raw.hset(stored.blob, mapping=stored.raw.hgetall(good.blob))


def set_meta(field: str, value: object) -> Callable[[Stored], object]:
    return lambda stored: stored.raw.hset(stored.key.meta, field, value)


ALTERATIONS: dict[str, Callable[[Stored], object]] = {
    "a bit of the arrays": lambda s: s.alter_part(lambda body: flipped(body, len(body) // 2)),
    "the last byte": lambda s: s.alter_part(lambda body: flipped(body, -1)),
    "a bit of the header": lambda s: s.alter_part(lambda body: flipped(body, 20)),
    "cut short": lambda s: s.alter_part(lambda body: body[:-1]),
    "made longer": lambda s: s.alter_part(lambda body: body + b"\0"),
    "emptied": lambda s: s.alter_part(lambda _: b""),
    "a part removed": lambda s: s.raw.hdel(s.blob, "0"),
    "the checkpoint removed": lambda s: s.raw.delete(s.blob),
    "another session's checkpoint": copy_from_the_good_one,
    "another digest": set_meta("blob_digest", "0" * 32),
    "another offset": set_meta("blob_offset", CHUNK),
    "no journal entry": lambda s: s.raw.xtrim(s.journal, maxlen=0),
    "journal of a wrong length": lambda s: replace_last_entry(s, b"\0\0\0\0\0"),
    "token that no vocabulary has": lambda s: replace_last_entry(s, b"\xff" * 4 * CHUNK),
    "open turn": set_meta("text", b"\xc1"),
    "table of writers": set_meta("writers", b"\x93\x01\x02"),
    "a record's number": set_meta("epoch", "seven"),
}


@dataclass
class World:
    redis: RedisProcess
    calls: Calls
    good: Held


@pytest.fixture(scope="module")
def world(tiny_model: Path) -> Iterator[World]:
    """Sessions that were altered while no daemon ran, one a way, and a good one beside them."""
    with ExitStack() as stack:
        yield make_world(tiny_model, stack)


def make_world(tiny_model: Path, stack: ExitStack) -> World:
    folder = Path(tempfile.mkdtemp(prefix="mds"))
    stack.callback(shutil.rmtree, folder, ignore_errors=True)
    server = RedisProcess(folder / "redis", server_binaries()["valkey"])
    stack.callback(server.kill)
    first = DaemonProcess(folder / "a", model=tiny_model, redis_url=server.url)
    stack.callback(first.kill)
    with Calls(first.address) as calls:
        for name in ("good", *ALTERATIONS):
            calls.create(name)
            end = calls.append(name, f"what {name} remembers. ".encode() * 3, writer_id="w", seq=1)
            while end.offset.tokens % CHUNK < CHUNK // 2:  # so that a journal remains
                end = calls.append(name, b" x", role=types_pb2.ROLE_RAW)
        good = calls.held("good")
    assert first.terminate() == 0
    for name, alter in ALTERATIONS.items():
        alter(Stored(server.raw, name))
    second = DaemonProcess(folder / "b", model=tiny_model, redis_url=server.url)
    stack.callback(second.kill)
    return World(server, stack.enter_context(Calls(second.address)), good)


@pytest.mark.parametrize("name", ALTERATIONS)
def test_an_altered_session_is_refused_and_others_are_served(world, name):
    calls = world.calls
    message = memory_pb2.AppendStreamRequest(session=name, writer_id="w", seq=2)
    message.pieces.add(role=types_pb2.ROLE_RAW, content=b"x")
    for call in (
        lambda: calls.inspect(name),
        lambda: calls.query(name),
        lambda: calls.append(name, b"x", writer_id="w", seq=1),
        lambda: calls.chat(name, b"x", "r"),
        lambda: calls.stream([message]),
    ):
        refused_for(Reason.STATE_CORRUPT, call)
    assert calls.held("good") == world.good


@pytest.mark.parametrize("name", ["a bit of the arrays", "no journal entry", "open turn"])
def test_an_altered_session_can_be_deleted_and_made_anew(world, name):
    world.calls.delete(name)
    world.calls.create(name)
    world.calls.append(name, b"from the start")
    assert world.calls.held(name).tokens > 0
