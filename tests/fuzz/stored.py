"""Stored bytes: states, and the records that stand beside them."""

import dataclasses
import random
import tracemalloc
from typing import Any

import xxhash

from fuzz.noise import number, octets, packed, scalar, text, tree
from memoryd.errors import ModelMismatch, StateCorrupt
from memoryd.sessions.archive import frames
from memoryd.sessions.chat import ChatRecords
from memoryd.sessions.text import TextState
from memoryd.sessions.writers import Writers
from memoryd.storage.codec import (
    DIGEST_BYTES,
    ITEM_BYTES,
    MAGIC,
    Array,
    Expectation,
    StateHeader,
    body_digest,
    decode_state,
    encode_state,
    seal,
)
from memoryd.storage.keys import SessionKey
from memoryd.storage.records import META_FIELDS, parse_record

HEADER = StateHeader("model", "numerics", "tenant", "session", "generation", 64)
ARRAYS = {
    "a": Array("float32", (2, 3), bytes(range(24))),
    "b": Array("bfloat16", (5,), b"0123456789"),
    "c": Array("int64", (0, 4), b""),
}
BODY = encode_state(HEADER, ARRAYS)


def _row(draw: random.Random) -> Any:
    """A row of an array table that is right in some of its five entries."""
    right = [
        draw.choice("abc"),
        draw.choice(sorted(ITEM_BYTES)),
        [draw.choice((0, 1, 2, 2**20, 2**40)) for _ in range(draw.randrange(10))],
        draw.randrange(64),
        draw.randrange(64),
    ]
    row = [entry if draw.random() < 0.8 else tree(draw, 2) for entry in right]
    return row if draw.random() < 0.9 else tree(draw)


def _header(draw: random.Random) -> bytes:
    fields: dict[str, Any] = dataclasses.asdict(HEADER)
    fields["arrays"] = [_row(draw) for _ in range(draw.randrange(4))]
    for name in [*fields, "other"]:
        if draw.random() < 0.05:
            fields[name] = tree(draw)
    return packed(fields)


def _resealed(body: bytes) -> bytes:
    return body + xxhash.xxh3_128_digest(body)


def _edited(draw: random.Random) -> bytes:
    """A good state with some bytes changed and its digest made good again."""
    changed = bytearray(BODY[:-DIGEST_BYTES])
    for _ in range(draw.randrange(6)):
        changed[draw.randrange(len(changed))] = draw.randrange(256)
    return _resealed(bytes(changed))


class States:
    """decode_state: refused with a reason, or exactly what a good header says; bounded memory."""

    name = "states"

    def draw(self, draw: random.Random) -> bytes:
        match draw.randrange(7):
            case 0:
                return octets(draw, 300)
            case 1:
                return MAGIC + octets(draw, 60)
            case 2:
                return seal(octets(draw), octets(draw))
            case 3:
                return seal(packed(tree(draw)), octets(draw))
            case 4:
                return seal(_header(draw), octets(draw))
            case 5:
                return _edited(draw)
            case _:
                return _resealed(BODY[: draw.randrange(len(BODY))])

    def run(self, case: bytes) -> str:
        expect = Expectation("model", "tenant", "session", "generation", 64, body_digest(case))
        tracemalloc.start()
        try:
            header, arrays = decode_state(case, expect=expect)
        except (StateCorrupt, ModelMismatch) as refused:
            return refused.reason.value
        else:
            assert dataclasses.replace(header, numerics="numerics") == HEADER
            assert sum(len(array.data) for array in arrays.values()) <= len(case)
            return "taken"
        finally:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            # The header as Python objects, and whatever else the interpreter did meanwhile; sizes
            # that a case claims go up to terabytes.
            assert peak <= 64 * len(case) + (4 << 20), peak


class Records:
    """What stands in a session's meta hash: read, or refused as corrupt."""

    name = "records"

    def draw(self, draw: random.Random) -> tuple[str, Any]:
        kind = draw.choice(("text", "writers", "chat", "meta", "archive"))
        if kind == "archive":
            return kind, _archive(draw)
        if kind == "meta":
            fields = dict(_META) if draw.random() < 0.8 else {}
            for _ in range(draw.randrange(1, 4)):
                name = draw.choice([*META_FIELDS, "text", "chat:r", text(draw)]).encode()
                fields[name] = _stored(draw)
            return kind, fields
        return kind, _stored(draw)

    def run(self, case: tuple[str, Any]) -> str:
        kind, stored = case
        try:
            match kind:
                case "text":
                    TextState.unpack(stored)
                case "writers":
                    Writers.unpack(stored)
                case "archive":
                    for frame, packed_frame in frames(stored):
                        assert frame.pack() == packed_frame
                case "chat":
                    ChatRecords.unpack({"chat:r": stored})
                case _:
                    record = parse_record(SessionKey("tenant", "session"), stored)
                    TextState.unpack(record.text)
                    ChatRecords.unpack(record.fields)
        except StateCorrupt as refused:
            return f"{kind} {refused.reason.value}"
        return f"{kind} taken"


def _archive(draw: random.Random) -> bytes:
    """Frames whose digests fit, around bodies that are right in parts; sometimes damaged."""
    archive = bytearray()
    for _ in range(draw.randrange(1, 4)):
        rows = [
            draw.choice(
                (
                    [0, draw.choice(("user", "raw", "x")), True, text(draw), octets(draw)],
                    [1, text(draw), octets(draw)],
                    [2],
                    tree(draw, 2),
                )
            )
            for _ in range(draw.randrange(4))
        ]
        body = packed(draw.choice(([number(draw), rows], tree(draw))))
        framed = len(body).to_bytes(4, "little") + body
        archive += framed + xxhash.xxh3_64_digest(framed)
    if draw.random() < 0.3:
        archive[draw.randrange(len(archive))] ^= 1 << draw.randrange(8)
    return bytes(archive[: draw.randrange(len(archive))] if draw.random() < 0.2 else archive)


def _stored(draw: random.Random) -> bytes:
    match draw.randrange(4):
        case 0:
            return octets(draw, 80)
        case 1:
            return str(number(draw)).encode()
        case 2:
            return packed(tree(draw))
        case _:
            rows = [[scalar(draw) for _ in range(draw.randrange(7))] for _ in range(3)]
            return packed(draw.choice((rows, rows[0])))


_META: dict[bytes, bytes] = {
    **dict.fromkeys((b"epoch", b"next", b"created_ms", b"updated_ms", b"ttl_ms"), b"1"),
    b"generation": b"g",
    b"owner": b"",
    b"model": b"m",
    b"archive": b"0",
    b"labels": packed({}),
}
