"""The scheduler decides alone: no model, no thread."""

from __future__ import annotations

import random
import secrets
import subprocess
import sys

import pytest

from memoryd.engine.errors import GenerationFailed, IntegrityError
from memoryd.engine.lanes import LaneTable, Move
from memoryd.engine.messages import EngineOptions, GenerateRequest
from memoryd.engine.scheduler import (
    PREFILLS_PER_ABSORB,
    AbsorbBatch,
    PrefillPiece,
    Scheduler,
    choose_rectangle,
)

CHUNK = 4
OPTIONS = EngineOptions(slots=3, lanes=2, chunks_per_step=4, prefill_tokens_per_step=5)


def scheduler(**changes: int) -> Scheduler:
    values = {"slots": 3, "lanes": 2, "chunks_per_step": 4, "prefill_tokens_per_step": 5}
    return Scheduler(CHUNK, EngineOptions(**{**values, **changes}))


def ask(*prompt: int, backlog: bool = True) -> GenerateRequest:
    return GenerateRequest(prompt, backlog)


def absorb(books: Scheduler) -> AbsorbBatch:
    batch = books.next_work()
    assert isinstance(batch, AbsorbBatch)
    books.did_absorb(batch)
    return batch


def prefill(books: Scheduler) -> PrefillPiece:
    piece = books.next_work()
    assert isinstance(piece, PrefillPiece)
    books.did_prefill(piece)
    return piece


def test_scheduler_imports_no_torch() -> None:
    code = "import sys, memoryd.engine.engine; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_slots_run_out_and_come_back() -> None:
    books = scheduler()
    assert [books.open(n, 0) for n in (1, 2, 3, 4)] == [0, 1, 2, None]
    books.close(2)
    assert books.open(5, 0) == 1


def test_only_whole_chunks_are_absorbed() -> None:
    books = scheduler()
    books.open(1, 8)
    books.feed(1, range(3))
    assert books.next_work() is None
    books.feed(1, range(3, 10))
    (item,) = absorb(books).items
    assert item.tokens == tuple(range(8))
    session = books.session(1)
    assert session is not None
    assert (session.absorbed, session.fed) == (16, 18)
    assert books.next_work() is None


@pytest.mark.parametrize(
    ("available", "limit", "expected"),
    [
        ([10], 8, (8, [0])),
        ([1, 1, 1], 8, (1, [0, 1, 2])),
        ([1, 10], 8, (1, [0, 1])),
        ([10, 1], 8, (8, [0])),
        ([4, 5, 6], 8, (4, [0, 1])),
        ([2, 2, 2, 2], 8, (2, [0, 1, 2, 3])),
        ([1] * 9, 8, (1, list(range(8)))),
        ([3, 3], 2, (1, [0, 1])),
    ],
)
def test_a_batch_is_the_largest_rectangle_with_the_first_in_it(
    available: list[int], limit: int, expected: tuple[int, list[int]]
) -> None:
    assert choose_rectangle(available, limit) == expected


def test_no_session_starves_while_others_have_more_to_absorb() -> None:
    books = scheduler(chunks_per_step=1)
    for number in (1, 2, 3):
        books.open(number, 0)
        books.feed(number, range(CHUNK * (1 if number == 3 else 100)))
    order = [absorb(books).items[0].session for _ in range(5)]
    assert order == [1, 2, 3, 1, 2]


def test_fewer_chunks_are_absorbed_between_decode_steps() -> None:
    books = scheduler()
    books.open(1, 0)
    books.submit(7, 1, ask(1, backlog=False))
    assert books.admit() is not None
    prefill(books)
    books.feed(1, range(10 * CHUNK))
    assert len(absorb(books).items[0].tokens) == 2 * CHUNK
    books.remove(7)
    assert len(absorb(books).items[0].tokens) == 4 * CHUNK


def test_the_backlog_is_read_once_and_the_session_holds_until_it_was_copied() -> None:
    books = scheduler(lanes=1)
    books.open(1, 0)
    books.feed(1, range(10))
    books.submit(7, 1, ask(100))
    books.submit(8, 1, ask(101))
    books.feed(1, range(10, 50))
    assert books.admit() is None
    # Eight of the ten tokens are whole chunks: no further before both copies are made.
    assert len(absorb(books).items[0].tokens) == 8
    assert books.next_work() is None
    first = books.admit()
    assert first is not None
    assert (first.generation, first.memory_tokens, first.prompt_tokens) == (7, 10, 3)
    assert prefill(books).tokens == (8, 9, 100)
    # The other generation waits for the only lane, and the session for it.
    assert books.next_work() is None
    assert books.admit() is None
    books.remove(7)
    second = books.admit()
    assert second is not None
    assert second.generation == 8
    assert prefill(books).tokens == (8, 9, 101)
    assert len(absorb(books).items[0].tokens) == 2 * CHUNK


def test_a_generation_without_backlog_waits_for_nothing_and_holds_nothing() -> None:
    books = scheduler()
    books.open(1, 0)
    books.feed(1, range(20))
    books.submit(7, 1, ask(100, backlog=False))
    admission = books.admit()
    assert admission is not None
    assert (admission.memory_tokens, admission.prompt_tokens) == (0, 1)
    prefill(books)
    assert len(absorb(books).items[0].tokens) == 2 * CHUNK


def test_a_ready_generation_passes_one_whose_session_still_absorbs() -> None:
    books = scheduler()
    books.open(1, 0)
    books.open(2, 0)
    books.feed(1, range(100))
    books.submit(7, 1, ask(100))
    books.submit(8, 2, ask(100))
    admission = books.admit()
    assert admission is not None
    assert admission.generation == 8


def test_prompts_are_read_in_pieces() -> None:
    books = scheduler()
    books.open(1, 0)
    books.submit(7, 1, ask(*range(12)))
    assert books.admit() is not None
    pieces = [prefill(books) for _ in range(3)]
    assert [len(piece.tokens) for piece in pieces] == [5, 5, 2]
    assert [piece.last for piece in pieces] == [False, False, True]
    assert books.lanes.decoding == [7]


def test_absorbing_gets_a_turn_among_endless_prompts() -> None:
    books = scheduler()
    books.open(1, 0)
    books.feed(1, range(CHUNK))
    books.submit(7, 1, ask(*range(1000), backlog=False))
    assert books.admit() is not None
    for _ in range(PREFILLS_PER_ABSORB):
        prefill(books)
    absorb(books)
    prefill(books)


def test_an_empty_prompt_needs_a_stream() -> None:
    books = scheduler(lanes=1)
    books.open(1, 0)
    for backlog in (True, False):
        with pytest.raises(GenerationFailed, match="nothing to read"):
            books.submit(7, 1, ask(backlog=backlog))
    books.feed(1, range(CHUNK))
    with pytest.raises(GenerationFailed, match="nothing to read"):
        books.submit(7, 1, ask(backlog=False))


def test_a_loaded_state_needs_no_prompt() -> None:
    books = scheduler(lanes=1)
    books.open(1, 3 * CHUNK)
    books.submit(7, 1, ask())
    admission = books.admit()
    assert admission is not None
    assert (admission.memory_tokens, admission.prompt_tokens) == (3 * CHUNK, 0)


def test_an_empty_prompt_reads_what_was_fed() -> None:
    offset = 3 * CHUNK
    books = scheduler(lanes=1)
    books.open(1, offset)
    books.feed(1, range(CHUNK))
    books.submit(7, 1, ask())
    absorb(books)
    admission = books.admit()
    assert admission is not None
    assert (admission.memory_tokens, admission.prompt_tokens) == (offset + CHUNK, 0)
    piece = prefill(books)
    assert (piece.tokens, piece.last) == ((), True)
    books.submit(8, 1, ask(backlog=False))


def test_closing_a_session_returns_only_those_that_wait_for_it() -> None:
    books = scheduler()
    books.open(1, 0)
    books.open(2, 0)
    books.submit(7, 1, ask(1))
    assert books.admit() is not None
    books.submit(8, 1, ask(1))
    books.submit(9, 2, ask(1))
    assert books.close(1) == [8]
    prefill(books)
    with pytest.raises(GenerationFailed, match="closed"):
        books.submit(10, 1, ask(1))


def test_a_removed_waiting_generation_ends_its_hold() -> None:
    books = scheduler(lanes=1)
    books.open(1, 0)
    books.feed(1, range(5))
    books.submit(7, 1, ask(1))
    books.feed(1, range(5, 50))
    absorb(books)
    assert books.next_work() is None
    assert books.remove(7) == []
    assert len(absorb(books).items[0].tokens) == 16


def test_leaving_lanes_keep_the_decoding_ones_together() -> None:
    lanes = LaneTable(4)
    for generation in (10, 11, 12):
        lanes.admit(generation)
        lanes.start_decoding()
    lanes.admit(13)
    assert not lanes.can_admit
    assert lanes.remove(10) == [Move(2, 0), Move(3, 2)]
    assert (lanes.decoding, lanes.prefill_lane, lanes.prefilling) == ([12, 11], 2, 13)
    assert lanes.remove(11) == [Move(2, 1)]
    assert lanes.remove(13) == []
    assert lanes.remove(12) == []
    assert lanes.used == 0


def test_the_idle_check_sees_a_lost_slot() -> None:
    books = scheduler()
    books.open(1, 0)
    books.check_idle()
    books._free_slots.pop()
    with pytest.raises(IntegrityError, match="slots"):
        books.check_idle()


def test_any_order_of_events_keeps_the_promises() -> None:
    """Random events against plain lists: what is absorbed and read is what was fed, once."""
    seed = secrets.randbits(32)
    print(f"seed {seed}")  # noqa: T201
    rng = random.Random(seed)
    books = scheduler(lanes=3)
    fed: dict[int, list[int]] = {}
    absorbed: dict[int, list[int]] = {}
    expected: dict[int, list[int] | None] = {}
    lanes: list[list[int]] = [[] for _ in range(3)]
    reads: dict[int, list[int]] = {}
    base: dict[int, list[int]] = {}
    started = 0
    numbers = iter(range(10**6))

    def drop(generation: int) -> None:
        for move in books.remove(generation):
            lanes[move.target] = lanes[move.source]
        del expected[generation]

    for _ in range(3000):
        event = rng.choice(["open", "feed", "feed", "ask", "ask", "drop", "close", *["work"] * 5])
        if event == "open":
            number = next(numbers)
            if books.open(number, 0) is not None:
                fed[number], absorbed[number] = [], []
        elif event == "feed" and fed:
            number = rng.choice(list(fed))
            tokens = [rng.randrange(1000) for _ in range(rng.randrange(15))]
            books.feed(number, tokens)
            fed[number] += tokens
        elif event == "ask" and fed and len(expected) < 8:
            number, generation = rng.choice(list(fed)), next(numbers)
            prompt = [rng.randrange(1000) for _ in range(rng.randrange(1, 12))]
            backlog = rng.random() < 0.7
            books.submit(generation, number, ask(*prompt, backlog=backlog))
            expected[generation] = [*fed[number], *prompt] if backlog else None
        elif event == "drop" and expected:
            drop(rng.choice(list(expected)))
        elif event == "close" and fed and rng.random() < 0.2:
            number = rng.choice(list(fed))
            for generation in books.close(number):
                del expected[generation]
            del fed[number], absorbed[number]
        elif event == "work":
            admission = books.admit()
            if admission is not None:
                (number,) = [s.number for s in books.sessions if s.slot == admission.slot]
                base[admission.generation] = list(absorbed[number])
                reads[admission.generation] = []
                lanes[admission.lane] = [admission.generation]
            work = books.next_work()
            if isinstance(work, AbsorbBatch):
                assert len({len(item.tokens) for item in work.items}) == 1
                for item in work.items:
                    absorbed[item.session] += item.tokens
                    assert (
                        absorbed[item.session] == fed[item.session][: len(absorbed[item.session])]
                    )
                books.did_absorb(work)
            elif isinstance(work, PrefillPiece):
                assert lanes[work.lane] == [work.generation]
                reads[work.generation] += work.tokens
                books.did_prefill(work)
                if work.last:
                    started += 1
                    whole = expected[work.generation]
                    if whole is not None:
                        assert base[work.generation] + reads[work.generation] == whole
        decoding = books.lanes.decoding
        assert [lanes[i] for i in range(len(decoding))] == [[g] for g in decoding]
        busy = books.lanes.decoding
        if busy and rng.random() < 0.2:
            drop(rng.choice(busy))
    assert started > 50


def admitted(books: Scheduler) -> int:
    """Reads the prompt of the generation whose turn it is, and ends its reply."""
    admission = books.admit()
    assert admission is not None
    prefill(books)
    books.remove(admission.generation)
    return admission.generation


def test_tenants_take_turns_at_the_lanes() -> None:
    books = scheduler(lanes=1)
    for session, tenant in ((1, "busy"), (2, "ada"), (3, "bob")):
        books.open(session, 0, tenant)
    for generation in range(100, 104):
        books.submit(generation, 1, ask(7))
    assert admitted(books) == 100
    for generation in (200, 201):
        books.submit(generation, 2, ask(7))
    books.submit(300, 3, ask(7))
    assert [admitted(books) for _ in range(6)] == [200, 300, 101, 201, 102, 103]


def test_a_tenant_that_is_not_ready_holds_up_no_other() -> None:
    books = scheduler(lanes=1)
    books.open(1, 0, "busy")
    books.open(2, 0, "ada")
    books.submit(100, 1, ask(7))
    assert admitted(books) == 100
    books.feed(2, [1] * CHUNK)
    books.submit(200, 2, ask(7))  # has to absorb first
    books.submit(101, 1, ask(7))
    admission = books.admit()
    assert admission is not None
    assert admission.generation == 101


def test_tenants_take_turns_at_absorbing_and_so_do_the_sessions_of_one() -> None:
    books = scheduler(slots=4, chunks_per_step=1)
    for session in (1, 2, 3):
        books.open(session, 0, "busy")
        books.feed(session, [1] * 4 * CHUNK)
    books.open(4, 0, "ada")
    books.feed(4, [1] * 2 * CHUNK)
    turns = [item.session for _ in range(8) for item in absorb(books).items]
    assert turns == [1, 4, 2, 4, 3, 1, 2, 3]


def test_the_turns_of_tenants_that_are_gone_are_forgotten() -> None:
    books = scheduler(lanes=1)
    for round_ in range(100):
        books.open(round_, 0, f"tenant {round_}")
        books.feed(round_, [1] * CHUNK)
        absorb(books)
        books.submit(round_, round_, ask(7))
        admitted(books)
        books.close(round_)
    assert not books._reply_turns._served
    assert not books._absorb_turns._served


def test_a_background_session_absorbs_only_while_no_other_could() -> None:
    books = scheduler()
    books.open(1, 0, background=True)
    books.open(2, 0)
    books.feed(1, range(2 * CHUNK))
    books.feed(2, range(6 * CHUNK))
    read = [[item.session for item in absorb(books).items] for _ in range(3)]
    assert read == [[2], [2], [1]]
    assert books.next_work() is None
    books.check_idle()
