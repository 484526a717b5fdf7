"""An archive says what was said, whatever became of the server, and gives its tokens again."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.redis_servers import RedisProcess
from lalte.checkpoints.tiny import write_tiny_model
from lalte.presets import tiny_lalte
from lalte.text import Role, Tokenizer, TurnFormat
from memoryd.errors import AcknowledgedLost, StateCorrupt
from memoryd.sessions.archive import Closed, Frame, RecentFrames, Replied, Said, frames, pieces
from memoryd.sessions.log import Change, SessionLog
from memoryd.sessions.recent import RecentTokens
from memoryd.sessions.replay import Replay, same_text
from memoryd.sessions.text import OPENED_REPLY, Piece, TextFramer, TextState
from memoryd.storage.keys import SessionKey

KEY = SessionKey("t", "s")
FRAMES = [
    Frame(3, (Said(Piece(Role.USER, b"\xf0\x9f", open=True), "w"),)),
    Frame(3, ()),
    Frame(9, (Replied("text \N{SNOWMAN}", (1, 2**32 - 1)), Closed())),
    Frame(2**40, (Said(Piece(Role.DOCUMENT, bytes(range(256))), ""),)),
]
PACKED = b"".join(frame.pack() for frame in FRAMES)

texts = st.text(alphabet=st.sampled_from(" \n\tabthe.é字🙂<|im_end|>0"), max_size=30)


def test_frames_are_read_as_they_were_written():
    assert [frame for frame, _ in frames(PACKED)] == FRAMES
    assert b"".join(packed for _, packed in frames(PACKED)) == PACKED
    for size in (1, 40, 10_000):
        cut = list(pieces(PACKED, size))
        assert b"".join(cut) == PACKED
        assert [frame for part in cut for frame, _ in frames(part)] == FRAMES


def test_every_truncation_and_every_flipped_bit_is_refused():
    ends = {0}
    for frame in FRAMES:
        ends.add(max(ends) + len(frame.pack()))
    for length in set(range(len(PACKED))) - ends:
        with pytest.raises(StateCorrupt):
            list(frames(PACKED[:length]))
    for bit in range(8 * len(PACKED)):
        flipped = bytearray(PACKED)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(StateCorrupt):
            list(frames(bytes(flipped)))


def acts(draw: random.Random) -> list[tuple[str, object]]:
    """What may happen to a stream: writers take turns, replies come, turns are left open."""
    made: list[tuple[str, object]] = []
    for _ in range(draw.randrange(1, 12)):
        luck = draw.random()
        text = "".join(draw.choice(" \nabthe.é字🙂<|im_end|>0") for _ in range(draw.randrange(30)))
        if luck < 0.6:
            content = text.encode()
            cut = draw.randrange(len(content) + 1)
            role, writer = draw.choice(list(Role)), draw.choice("ab")
            # Cut inside a character; the other half may never come.
            made.append(("append", (writer, Piece(role, content[:cut], open=True))))
            if draw.random() < 0.8:
                made.append(("append", (writer, Piece(role, content[cut:]))))
        elif luck < 0.85:
            made.append(("chat", [text, draw.randrange(3)]))
        else:
            made.append(("close", None))
    return made


def live(framer: TextFramer, made: list[tuple[str, object]], draw: random.Random):
    """Tokens, state and frames as a daemon would have them."""
    tokens, state, told = [], TextState(), []

    def change(added, text, *events):
        nonlocal state
        tokens.extend(added)
        state = text
        told.append(Frame(len(tokens), events))

    def append(writer, piece):
        return framer.append(state, [piece], writer=writer, now_ms=0, abandoned=True)

    for kind, what in made:
        try:
            if kind == "append":
                change(*append(*what), Said(what[1], what[0]))
            elif kind == "close":
                change(*framer.close(state), Closed())
            else:
                text, parts = what
                turn = Piece(Role.USER, b"Hm?")
                added, after = append("\0chat:r", turn)
                opening, after = framer.open_reply(after, writer="\0chat:r", now_ms=0)
                said = Said(turn, "\0chat:r"), Said(OPENED_REPLY, "\0chat:r")
                change([*added, *opening], after, *said)
                for _ in range(parts):
                    drawn = tuple(draw.randrange(400) for _ in range(3))
                    change(drawn, state, Replied(text, drawn))
                if draw.random() < 0.7:
                    change(*framer.close(state), Closed())
        except Exception as error:  # noqa: BLE001  refused: nothing of it is kept
            assert type(error).__name__ == "InvalidUtf8Content", error  # noqa: PT017
    return tokens, state, told


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_a_replay_gives_the_tokens_and_the_text_again(framer, seed):
    draw = random.Random(seed)
    tokens, state, told = live(framer, acts(draw), draw)
    replay, again = Replay(framer, as_drawn=True), []
    for frame in told:
        read = next(iter(frames(frame.pack())))[0]
        added, same = replay.apply(read.events)
        assert same == frame
        again += added
    assert again == tokens
    assert same_text(replay.text, state)


@pytest.fixture(scope="module")
def other_framer(tmp_path_factory) -> TextFramer:
    folder = tmp_path_factory.mktemp("other") / "tiny"
    write_tiny_model(folder, seed=1, config=tiny_lalte(vocab_size=400))
    turn_format = TurnFormat.from_json((folder / "turn_format.json").read_text("utf-8"))
    return TextFramer(Tokenizer.load(folder), turn_format, turn_timeout_ms=1000)


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_under_another_tokenizer_it_is_the_stream_that_was_said(framer, other_framer, seed):
    draw = random.Random(seed)
    _, _, told = live(framer, acts(draw), draw)
    moved = Replay(other_framer, as_drawn=False)
    retold = [moved.apply(frame.events) for frame in told]
    # What the new archive says gives the new tokens, with no id of the old vocabulary left.
    again = Replay(other_framer, as_drawn=True)
    for tokens, frame in retold:
        assert not any(isinstance(event, Replied) for event in frame.events)
        assert again.apply(frame.events) == (tokens, frame)
    assert again.text == moved.text


def test_what_no_session_could_have_taken_is_refused(framer):
    for events in (
        (Replied("a", (1,)),),
        (Said(Piece(Role.USER, b"\xff"), "w"),),
    ):
        with pytest.raises(StateCorrupt):
            Replay(framer, as_drawn=True).apply(events)


def test_recent_frames_reach_back_to_the_checkpoint():
    recent = RecentFrames(0)
    for frame in FRAMES:
        recent.extend(frame.next, frame.pack())
    assert recent.since(0) == PACKED
    recent.forget_before(3)  # nothing: a frame that leads there exactly may be needed
    assert recent.start == 0
    recent.forget_before(9)
    assert recent.start == len(FRAMES[0].pack() + FRAMES[1].pack())
    assert recent.since(0) is None
    assert recent.since(recent.end + 1) is None
    assert recent.since(recent.end) == b""


def cut_off(redis: RedisProcess, generation: str, saved: dict[bytes, bytes]) -> None:
    """What a failover may do: all keys of the session are those of an earlier moment."""
    for key in redis.raw.keys(f"{KEY.meta[:-4]}*"):
        redis.raw.delete(key)
    for key, dumped in saved.items():
        redis.raw.restore(key, 0, dumped)


@pytest.mark.parametrize("known", [True, False])
async def test_the_archive_is_what_was_acknowledged_whatever_redis_loses(store, redis, known):
    seed = random.randrange(2**32)
    print(f"seed {seed}")  # noqa: T201
    draw = random.Random(seed)
    record = await store.create(KEY, model="m", archive=True)
    record = await store.acquire(KEY, expected_owner="", expected_epoch=0, me="me")
    log = SessionLog(store, record, RecentTokens(0), RecentFrames(0), lambda _: None)
    said: list[bytes] = []
    saved: list[dict[bytes, bytes]] = []
    lost = False
    for number in range(60):
        tokens = list(range(draw.randrange(4)))  # often none: bytes that wait in the tail
        content = b"%d" % number
        event = Said(Piece(Role.USER, content, open=True), "w")
        text = TextState(True, Role.USER, "w", 0, content)
        change = Change(tokens, text, log.writers, log.chats, (event,))
        try:
            await log.write(change)
        except AcknowledgedLost:
            assert not known
            lost = True
            break
        said.append(content)
        names = redis.raw.keys(f"{KEY.meta[:-4]}*")
        saved.append({name: redis.raw.dump(name) for name in names})
        if not known and number == 30:
            log.forget_before(log.next)
            cut_off(redis, record.generation, saved[0])
        elif draw.random() < 0.15:
            cut_off(redis, record.generation, draw.choice(saved[-6:]))
    assert lost is not known
    if known:
        stored = await store.read(KEY)
        if stored.archived < log.frames.end:  # the last thing that happened was a loss
            await log.write(Change([], log.text, log.writers, log.chats))
        data = b"".join(
            [p async for p in store.archives.read(KEY, record.generation, log.frames.end)]
        )
        found = [event for frame, _ in frames(data) for event in frame.events]
        assert [event.piece.content for event in found] == said
        assert [frame.next for frame, _ in frames(data)][-1] == log.next
