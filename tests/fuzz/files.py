"""Export files, as an import reads them: whole, damaged, forged, and noise."""

import random
from typing import Any

import msgpack
import xxhash

from fuzz.noise import octets, packed, tree
from harness.files import write_file
from memoryd.errors import ImportRefused
from memoryd.storage.cut import DIGEST_BYTES, Cut
from memoryd.storage.cut import MAGIC as CUT_MAGIC
from memoryd.storage.keys import SessionKey
from memoryd.storage.portable import MAGIC, FileReader
from memoryd.storage.records import BlobRef

KEY, MAX_STATE = b"the deployment's key", 4096
STATE = bytes(range(200))
MAX_ARCHIVE = 1024
ARCHIVE = bytes(range(100))
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
FILE = write_file(CUT, STATE, KEY, ARCHIVE)
FIELDS: dict[str, Any] = msgpack.unpackb(CUT.pack()[len(CUT_MAGIC) : -DIGEST_BYTES])


def _digested(body: bytes) -> bytes:
    return body + xxhash.xxh3_128_digest(body)


def _with_cut(body: bytes) -> bytes:
    """A file around a cut of the case's choice, with digests that fit and no signature."""
    cut = _digested(CUT_MAGIC + body)
    content = MAGIC + len(cut).to_bytes(4, "little") + cut + STATE + ARCHIVE
    return _digested(content + b"\0")


class Files:
    """FileReader: refused as an import, or the very session; never more held than sizes allow."""

    name = "files"

    def draw(self, draw: random.Random) -> tuple[bytes, int]:
        """A file, and the bytes of a piece of it."""
        return self._file(draw), draw.choice((1, 7, 64, 1 << 20))

    def _file(self, draw: random.Random) -> bytes:
        match draw.randrange(7):
            case 0:
                return octets(draw, 200)
            case 1:
                return MAGIC + octets(draw, 200)
            case 2:
                return FILE[: draw.randrange(len(FILE) + 1)] + octets(draw, 3)
            case 3:
                changed = bytearray(FILE)
                for _ in range(draw.randrange(4)):
                    changed[draw.randrange(len(changed))] = draw.randrange(256)
                # Where its digest is made good again, it is the signature that does not fit.
                return bytes(changed) if draw.random() < 0.3 else _digested(bytes(changed[:-16]))
            case 4:
                return _with_cut(packed(tree(draw)))
            case _:
                fields = dict(FIELDS)
                for _ in range(draw.randrange(1, 3)):
                    fields[draw.choice([*FIELDS, "other"])] = tree(draw)
                return _with_cut(packed(fields))

    def run(self, case: tuple[bytes, int]) -> str:
        data, piece = case
        reader = FileReader(KEY, MAX_STATE, MAX_ARCHIVE)
        try:
            for at in range(0, len(data), piece):
                reader.feed(data[at : at + piece])
            found = reader.finish()
        except ImportRefused as refused:
            return refused.reason.value
        assert len(found.state) <= MAX_STATE
        assert len(found.archive) == found.cut.archived <= MAX_ARCHIVE
        if found.signed:
            assert (found.cut, found.state, found.archive) == (CUT, STATE, ARCHIVE)
        return "taken, signed" if found.signed else "taken, not signed"
