"""A file of a session is read back whole, or refused."""

import random
from dataclasses import replace

import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.files import write_file
from memoryd.errors import ImportRefused
from memoryd.storage.cut import MAX_CUT_BYTES, Cut
from memoryd.storage.keys import SessionKey
from memoryd.storage.portable import MAGIC, FileReader
from memoryd.storage.records import BlobRef

KEY = b"the key of this deployment"
STATE = bytes(range(256)) * 3
ARCHIVE = b"what was said"
CUT = Cut(
    key=SessionKey("tenant", "name"),
    generation="abcd",
    model="m@1",
    next=10,
    blob=BlobRef("attempt", 8, len(STATE), 1, "00" * 16),
    tokens=b"\1\0\0\0\2\0\0\0",
    text=b"text",
    writers=b"writers",
    fields={"chat:r": b"record"},
    labels={"a": "1"},
    ttl_ms=5000,
    archive=True,
    archived=len(ARCHIVE),
)


def read(
    data: bytes,
    *,
    key: bytes | None = KEY,
    piece: int = 100,
    max_state: int = 10_000,
    max_archive: int = 10_000,
):
    reader = FileReader(key, max_state, max_archive)
    for at in range(0, len(data), piece):
        reader.feed(data[at : at + piece])
    return reader.finish()


@pytest.mark.parametrize("piece", [1, 7, 100, 100_000])
def test_a_file_is_read_back_however_it_was_cut(piece):
    found = read(write_file(CUT, STATE, KEY, ARCHIVE), piece=piece)
    assert (found.cut, found.state, found.archive, found.signed) == (CUT, STATE, ARCHIVE, True)


def test_a_session_without_a_checkpoint_has_no_state():
    cut = replace(CUT, next=2, blob=None, archived=0)
    found = read(write_file(cut, b"", None))
    assert (found.cut, found.state, found.signed) == (cut, b"", False)


def test_only_the_key_that_signed_it_verifies_a_file():
    signed, unsigned = write_file(CUT, STATE, KEY, ARCHIVE), write_file(CUT, STATE, None, ARCHIVE)
    assert read(signed).signed
    assert not read(signed, key=b"another").signed
    assert not read(signed, key=None).signed
    assert not read(unsigned).signed
    # Whoever alters a file can mend its digest, but not its signature.
    forged = bytearray(signed[:-16])
    forged[len(MAGIC) + 4 + len(CUT.pack()) + 5] ^= 1
    forged += xxhash.xxh3_128_digest(bytes(forged))
    assert not read(bytes(forged)).signed


@pytest.mark.parametrize("key", [KEY, None])
def test_every_truncation_and_every_flipped_bit_is_refused(key):
    data = write_file(CUT, STATE, key, ARCHIVE)
    for length in range(len(data)):
        with pytest.raises(ImportRefused):
            read(data[:length], key=key)
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ImportRefused):
            read(bytes(flipped), key=key, piece=10_000)
    with pytest.raises(ImportRefused):
        read(data + b"\0", key=key)


def test_sizes_are_refused_before_their_bytes_are_taken():
    head = MAGIC + (MAX_CUT_BYTES + 1).to_bytes(4, "little")
    with pytest.raises(ImportRefused, match="claims"):
        FileReader(KEY, 10_000, 10_000).feed(head)
    reader = FileReader(KEY, len(STATE) - 1, 10_000)
    with pytest.raises(ImportRefused, match="state"):
        reader.feed(write_file(CUT, STATE, KEY, ARCHIVE)[: 12 + len(CUT.pack())])
    with pytest.raises(ImportRefused, match="max_import_archive_bytes"):
        read(write_file(CUT, STATE, KEY, ARCHIVE), max_archive=len(ARCHIVE) - 1)
    endless = FileReader(KEY, 10_000, 10_000)
    endless.feed(write_file(CUT, STATE, KEY, ARCHIVE))
    with pytest.raises(ImportRefused, match="follow"):
        endless.feed(b"\0")


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 2**32 - 1))
def test_random_bytes_are_refused_and_never_crash(data, seed):
    with pytest.raises(ImportRefused):
        read(data)
    good = bytearray(write_file(CUT, STATE, KEY, ARCHIVE))
    draw = random.Random(seed)
    at = draw.randrange(len(good))
    good[at : at + draw.randrange(20)] = data
    if bytes(good) != write_file(CUT, STATE, KEY, ARCHIVE):
        with pytest.raises(ImportRefused):
            read(bytes(good))
