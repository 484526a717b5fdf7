"""A session's state as bytes, and back, with every doubt refused.

Layout, all integers little-endian:

    magic     8 bytes   b"mdstate1"; the digit is the format version
    length    uint32    of the header
    header    msgpack   model, numerics, tenant, session, generation, offset, arrays
    arrays    raw       one after the other, without gaps, in the table's order
    digest    16 bytes  xxh3-128 over everything before it

The array table has a row (name, dtype, shape, offset, length) for each array; offsets count from
the end of the header. No pickle; nothing is allocated from a size that was not checked against the
bytes at hand. A digest finds accidents, not forgery: whoever can write to Redis is trusted.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import msgpack
import xxhash

from memoryd.errors import ModelMismatch, StateCorrupt

MAGIC = b"mdstate1"
DIGEST_BYTES = 16
# A state that grows has two arrays for each layer and 1,024 tokens.
MAX_HEADER_BYTES = 1 << 22
MAX_ARRAYS = 1 << 15
MAX_DIMENSIONS = 8
MAX_NAME_CHARS = 256

ITEM_BYTES = {"bfloat16": 2, "float32": 4, "float64": 8, "int32": 4, "int64": 8}
"""The types a state's arrays may have, by the name that torch and numpy give them."""

_LENGTH_BYTES = 4
_HEADER_FIELDS = ("model", "numerics", "tenant", "session", "generation", "offset", "arrays")


class ArrayLike(Protocol):
    """What the encoder takes: any object with these three attributes."""

    @property
    def dtype(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def data(self) -> bytes | memoryview: ...


@dataclass(frozen=True, slots=True)
class Array:
    """A named tensor's content: C order, little-endian, `dtype` a key of ITEM_BYTES."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes | memoryview


@dataclass(frozen=True, slots=True)
class StateHeader:
    """What a state says about itself.

    model: fingerprint of the weights and config. numerics: instruction set, torch version, dtype
    and threads; bits are promised equal only within one. offset: tokens that the state has read.
    """

    model: str
    numerics: str
    tenant: str
    session: str
    generation: str
    offset: int


@dataclass(frozen=True, slots=True)
class Expectation:
    """What the session's record says its state must be; `digest` as `body_digest` gives it."""

    model: str
    tenant: str
    session: str
    generation: str
    offset: int
    digest: str


def encode_state(header: StateHeader, arrays: Mapping[str, ArrayLike]) -> bytes:
    """Put a state into one body.

    Raises ValueError for an array whose type is unknown or whose length does not fit its shape, and
    for more arrays than a reader takes.
    """
    if len(arrays) > MAX_ARRAYS:
        raise ValueError(f"a state of {len(arrays)} arrays is too long: {MAX_ARRAYS} at most")
    table: list[tuple[str, str, list[int], int, int]] = []
    chunks: list[memoryview] = []
    offset = 0
    for name, array in arrays.items():
        data = memoryview(array.data).cast("B")
        if array.dtype not in ITEM_BYTES:
            raise ValueError(f"array {name}: unknown dtype {array.dtype}")
        if data.nbytes != math.prod(array.shape) * ITEM_BYTES[array.dtype]:
            raise ValueError(f"array {name}: {data.nbytes} bytes do not fit shape {array.shape}")
        table.append((name, array.dtype, list(array.shape), offset, data.nbytes))
        chunks.append(data)
        offset += data.nbytes
    packed = msgpack.packb(
        {
            "model": header.model,
            "numerics": header.numerics,
            "tenant": header.tenant,
            "session": header.session,
            "generation": header.generation,
            "offset": header.offset,
            "arrays": table,
        }
    )
    return seal(packed, *chunks)


def seal(header: bytes, *chunks: bytes | memoryview) -> bytes:
    """Frame a packed header and raw array bytes, and put the digest under both."""
    length = len(header).to_bytes(_LENGTH_BYTES, "little")
    body = b"".join((MAGIC, length, header, *chunks))
    return body + xxhash.xxh3_128_digest(body)


def body_digest(body: bytes | memoryview) -> str:
    """Return the digest that stands at the end of an encoded state, in hex."""
    return bytes(body[-DIGEST_BYTES:]).hex()


def decode_state(body: bytes, *, expect: Expectation) -> tuple[StateHeader, dict[str, Array]]:
    """Verify a body and take it apart; the arrays are views into it, nothing is copied.

    Another numerics fingerprint than the reader's is for the caller to judge. Raises StateCorrupt,
    or ModelMismatch for a state of another model; both name what was expected and what was found.
    """
    view = memoryview(body)
    smallest = len(MAGIC) + _LENGTH_BYTES + DIGEST_BYTES
    if len(view) < smallest:
        raise _corrupt(f"it has {len(view)} bytes and needs at least {smallest}")
    if bytes(view[: len(MAGIC)]) != MAGIC:
        raise _corrupt(
            f"it begins with {bytes(view[: len(MAGIC)])!r} and not with {MAGIC!r}: another format "
            "version wrote it, or it is no state"
        )
    found = xxhash.xxh3_128_hexdigest(view[:-DIGEST_BYTES])
    if found != body_digest(view):
        raise _corrupt(f"its digest is {body_digest(view)} but its bytes give {found}")
    if found != expect.digest:
        raise _corrupt(f"its digest is {found}, the session's record says {expect.digest}")

    begin = len(MAGIC) + _LENGTH_BYTES
    length = int.from_bytes(view[len(MAGIC) : begin], "little")
    end = len(view) - DIGEST_BYTES
    if length > min(MAX_HEADER_BYTES, end - begin):
        raise _corrupt(f"its header claims {length} bytes")
    fields = _unpack_header(view[begin : begin + length])
    header = StateHeader(**{name: fields[name] for name in _HEADER_FIELDS[:-1]})
    _compare(header, expect)
    return header, _arrays(fields["arrays"], view[begin + length : end])


def _unpack_header(packed: memoryview) -> dict[str, Any]:
    try:
        fields = msgpack.unpackb(
            packed,
            object_pairs_hook=_distinct,
            strict_map_key=True,
            max_array_len=MAX_ARRAYS,
            max_map_len=len(_HEADER_FIELDS),
            max_ext_len=0,
        )
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise _corrupt(f"its header is not readable ({error})") from error
    if not isinstance(fields, dict) or set(fields) != set(_HEADER_FIELDS):
        raise _corrupt(f"its header must have exactly the fields {', '.join(_HEADER_FIELDS)}")
    for name in _HEADER_FIELDS[:5]:
        if not isinstance(fields[name], str):
            raise _corrupt(f"its header's {name} is not text")
    if not _is_size(fields["offset"]):
        raise _corrupt("its header's offset is not a count of tokens")
    if not isinstance(fields["arrays"], list):
        raise _corrupt("its array table is not a list")
    return fields


def _distinct(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a field stands twice")
    return fields


def _compare(header: StateHeader, expect: Expectation) -> None:
    for name in ("tenant", "session", "generation", "offset"):
        wanted, found = getattr(expect, name), getattr(header, name)
        if wanted != found:
            raise _corrupt(f"its {name} is {found!r}, expected {wanted!r}")
    if header.model != expect.model:
        raise ModelMismatch(
            f"The state was made by model {header.model}, this daemon serves {expect.model}: serve "
            "the session with the model that made it.",
            expected=expect.model,
            found=header.model,
        )


def _arrays(table: list[Any], raw: memoryview) -> dict[str, Array]:
    """Check each row against what came before it, and cut its bytes out of `raw`."""
    arrays: dict[str, Array] = {}
    position = 0
    for row in table:
        if not isinstance(row, list) or len(row) != 5:
            raise _corrupt("a row of its array table has not five entries")
        name, dtype, shape, offset, length = row
        if not isinstance(name, str) or len(name) > MAX_NAME_CHARS:
            raise _corrupt("an array's name is not a short text")
        if name in arrays:
            raise _corrupt(f"array {name} stands twice")
        if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
            raise _corrupt(f"array {name} has the unknown dtype {dtype!r}")
        if not isinstance(shape, list) or len(shape) > MAX_DIMENSIONS:
            raise _corrupt(f"array {name} has more than {MAX_DIMENSIONS} dimensions")
        if not all(_is_size(size) for size in (*shape, offset, length)):
            raise _corrupt(f"array {name} has a size that is no whole number >= 0")
        if length != math.prod(shape) * ITEM_BYTES[dtype]:
            raise _corrupt(f"array {name} has {length} bytes, which do not fit its shape {shape}")
        if offset != position or position + length > len(raw):
            raise _corrupt(f"array {name} does not lie where the one before it ends")
        arrays[name] = Array(dtype, tuple(shape), raw[position : position + length])
        position += length
    if position != len(raw):
        raise _corrupt(f"{len(raw) - position} bytes follow its last array")
    return arrays


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _corrupt(what: str) -> StateCorrupt:
    return StateCorrupt(
        f"A stored state was refused, {what}: restore a snapshot or create the session anew."
    )
