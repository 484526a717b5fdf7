"""A state decodes to exactly what was encoded, and anything else is refused."""

import dataclasses
import random

import msgpack
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from memoryd.errors import ModelMismatch, StateCorrupt
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

HEADER = StateHeader("model-1", "avx512/torch-2", "tenant", "séance", "gen", 128)
ARRAYS = {
    "layers.0.S": Array("float32", (2, 3), bytes(range(24))),
    "layers.1.k": Array("bfloat16", (5,), b"0123456789"),
    "empty": Array("int64", (0, 4), b""),
    "scalar": Array("int32", (), b"abcd"),
}


def expect(body: bytes, header: StateHeader = HEADER) -> Expectation:
    return Expectation(
        header.model,
        header.tenant,
        header.session,
        header.generation,
        header.offset,
        body_digest(body),
    )


def sealed(table: list, raw: bytes, **changes: object) -> bytes:
    """A body with a good digest around a header of the test's choice."""
    fields = {**dataclasses.asdict(HEADER), "arrays": table, **changes}
    return seal(msgpack.packb({k: v for k, v in fields.items() if v is not None}), raw)


@st.composite
def arrays(draw: st.DrawFn) -> Array:
    dtype = draw(st.sampled_from(sorted(ITEM_BYTES)))
    shape = tuple(draw(st.lists(st.integers(0, 4), max_size=4)))
    size = ITEM_BYTES[dtype]
    for dimension in shape:
        size *= dimension
    return Array(dtype, shape, draw(st.binary(min_size=size, max_size=size)))


@given(st.dictionaries(st.text(max_size=20), arrays(), max_size=6))
def test_a_state_decodes_to_what_was_encoded(state: dict[str, Array]) -> None:
    body = encode_state(HEADER, state)
    header, found = decode_state(body, expect=expect(body))
    assert header == HEADER
    assert list(found) == list(state)
    for name, array in state.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        assert bytes(found[name].data) == bytes(array.data)


def test_views_of_any_item_type_are_encoded_as_bytes() -> None:
    wide = memoryview(bytes(range(16))).cast("q")
    body = encode_state(HEADER, {"a": Array("int64", (2,), wide)})
    assert bytes(decode_state(body, expect=expect(body))[1]["a"].data) == bytes(range(16))


@pytest.mark.parametrize(
    "array", [Array("float8", (1,), b"x"), Array("int32", (2,), b"1234"), Array("int32", (), b"")]
)
def test_an_array_that_contradicts_itself_is_not_encoded(array: Array) -> None:
    with pytest.raises(ValueError, match="array a"):
        encode_state(HEADER, {"a": array})


def test_every_truncation_is_refused() -> None:
    body = encode_state(HEADER, ARRAYS)
    for length in range(len(body)):
        with pytest.raises(StateCorrupt):
            decode_state(body[:length], expect=expect(body))
        # Even if the session's record agreed with the shortened body.
        with pytest.raises(StateCorrupt):
            decode_state(body[:length], expect=expect(body[:length]))


def test_every_changed_byte_is_refused() -> None:
    body = encode_state(HEADER, ARRAYS)
    for at in range(len(body)):
        for flip in (0x01, 0x80, 0xFF):
            changed = bytearray(body)
            changed[at] ^= flip
            with pytest.raises(StateCorrupt):
                decode_state(bytes(changed), expect=expect(body))
            with pytest.raises(StateCorrupt):
                decode_state(bytes(changed), expect=expect(bytes(changed)))


def test_a_sealed_body_with_any_header_byte_changed_is_refused_or_differs() -> None:
    """With a matching digest the checks behind it must hold: no crash, no silent acceptance."""
    seed = random.randrange(2**32)
    print("seed", seed)  # noqa: T201
    rng = random.Random(seed)
    body = encode_state(HEADER, ARRAYS)
    for _ in range(3000):
        changed = bytearray(body[:-DIGEST_BYTES])
        for _ in range(rng.randint(1, 4)):
            changed[rng.randrange(len(changed))] = rng.randrange(256)
        resealed = bytes(changed) + xxhash.xxh3_128_digest(bytes(changed))
        try:
            header, found = decode_state(resealed, expect=expect(resealed))
        except (StateCorrupt, ModelMismatch):
            continue
        assert dataclasses.replace(header, numerics=HEADER.numerics) == HEADER
        assert sum(len(array.data) for array in found.values()) == 38


@given(st.binary(max_size=200))
@settings(max_examples=200)
def test_noise_is_refused(noise: bytes) -> None:
    for body in (noise, seal(noise), MAGIC + noise):
        with pytest.raises(StateCorrupt):
            decode_state(body, expect=expect(body))


@pytest.mark.parametrize("field", ["tenant", "session", "generation", "offset"])
def test_a_state_of_something_else_is_refused_by_name(field: str) -> None:
    other: object = 64 if field == "offset" else "other"
    body = encode_state(dataclasses.replace(HEADER, **{field: other}), ARRAYS)
    with pytest.raises(StateCorrupt, match=f"its {field} is") as refused:
        decode_state(body, expect=expect(body))
    assert repr(other) in str(refused.value)
    assert repr(getattr(HEADER, field)) in str(refused.value)


def test_a_state_of_another_model_is_a_mismatch_that_names_both() -> None:
    body = encode_state(dataclasses.replace(HEADER, model="model-2"), ARRAYS)
    with pytest.raises(ModelMismatch) as refused:
        decode_state(body, expect=expect(body))
    assert refused.value.facts == {"expected": "model-1", "found": "model-2"}


def test_another_numerics_fingerprint_is_returned_and_not_refused() -> None:
    body = encode_state(dataclasses.replace(HEADER, numerics="neon"), ARRAYS)
    assert decode_state(body, expect=expect(body))[0].numerics == "neon"


def test_a_good_body_that_the_record_does_not_name_is_refused() -> None:
    body = encode_state(HEADER, ARRAYS)
    with pytest.raises(StateCorrupt, match="record says"):
        decode_state(body, expect=dataclasses.replace(expect(body), digest="0" * 32))


def test_another_format_version_is_refused_by_name() -> None:
    body = encode_state(HEADER, ARRAYS).replace(b"mdstate1", b"mdstate2")
    with pytest.raises(StateCorrupt, match="another format"):
        decode_state(body, expect=expect(body))


GOOD = ["a", "int32", [2], 0, 8]


@pytest.mark.parametrize(
    ("table", "raw", "says"),
    [
        ([GOOD, GOOD], b"12345678", "stands twice"),
        ([GOOD, ["b", "int32", [2], 0, 8]], b"12345678", "does not lie"),
        ([GOOD, ["b", "int32", [2], 4, 8]], b"1234567812345678", "does not lie"),
        ([["a", "int32", [2], 4, 8]], b"123412345678", "does not lie"),
        ([GOOD], b"1234567", "does not lie"),
        ([GOOD], b"123456789", "1 bytes follow"),
        ([], b"1", "1 bytes follow"),
        ([["a", "object", [2], 0, 8]], b"12345678", "unknown dtype"),
        ([["a", ["int32"], [2], 0, 8]], b"12345678", "unknown dtype"),
        ([["a", "int32", [3], 0, 8]], b"12345678", "do not fit"),
        ([["a", "int32", [-2], 0, -8]], b"12345678", "no whole number"),
        ([["a", "int32", [2.0], 0, 8]], b"12345678", "no whole number"),
        ([["a", "int32", [True, 2], 0, 8]], b"12345678", "no whole number"),
        ([["a", "int32", [2**62, 4], 0, 2**63]], b"", "do not fit"),
        ([["a", "int32", [2**40], 0, 2**42]], b"", "does not lie"),
        ([["a", "int32", [1] * 9, 0, 4]], b"1234", "dimensions"),
        ([["a", "int32", 2, 0, 8]], b"12345678", "dimensions"),
        ([["a" * 300, "int32", [2], 0, 8]], b"12345678", "name"),
        ([[1, "int32", [2], 0, 8]], b"12345678", "name"),
        ([["a", "int32", [2], 0]], b"12345678", "five entries"),
        (["a"], b"", "five entries"),
        ("table", b"", "not a list"),
        ([GOOD] * 40_000, b"", "not readable"),
    ],
)
def test_a_table_that_does_not_describe_its_bytes_is_refused(table, raw, says) -> None:
    body = sealed(table, raw)
    with pytest.raises(StateCorrupt, match=says):
        decode_state(body, expect=expect(body))


@pytest.mark.parametrize(
    "changes",
    [
        {"offset": -1},
        {"offset": "128"},
        {"offset": True},
        {"model": 1},
        {"tenant": b"tenant"},
        {"extra": 1},
        {"numerics": None},
    ],
)
def test_a_header_of_another_shape_is_refused(changes) -> None:
    body = sealed([GOOD], b"12345678", **changes)
    with pytest.raises(StateCorrupt, match="header"):
        decode_state(body, expect=expect(body))


def test_a_header_field_that_stands_twice_is_refused() -> None:
    packed = msgpack.packb({**dataclasses.asdict(HEADER), "arrays": []})
    tail = msgpack.packb("offset") + msgpack.packb(128)
    # 0x87: a map of seven; one pair of "numerics" is replaced by a second "offset".
    numerics = msgpack.packb("numerics") + msgpack.packb(HEADER.numerics)
    assert packed[0] == 0x87
    body = seal(packed.replace(numerics, tail))
    with pytest.raises(StateCorrupt, match="twice"):
        decode_state(body, expect=expect(body))


def test_a_header_longer_than_the_body_is_refused() -> None:
    for length in (2**32 - 1, 2**20 + 1, 5):
        framed = MAGIC + length.to_bytes(4, "little") + b"\x80"
        body = framed + xxhash.xxh3_128_digest(framed)
        with pytest.raises(StateCorrupt, match="claims"):
            decode_state(body, expect=expect(body))
