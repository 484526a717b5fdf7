"""A session as one file that another deployment of the same model can read.

Layout, all integers little-endian:

    magic      8 bytes   b"mdfile02"; the digits are the format version
    length     uint32    of the cut
    cut        see cut.py; it names the session, the model, and the state that follows
    state      see codec.py; as many bytes as the cut says, none where it names no checkpoint
    archive    as many bytes as the cut says, none for a session that keeps none
    length     uint8     of the signature: 0 or 32
    signature  HMAC-SHA256 (RFC 2104) over everything before its length, by the deployment's key
    digest     16 bytes  xxh3-128 over everything before it

The digest finds accidents, the signature forgery. The writer gives the file piece by piece, for an
archive can be long. The reader takes it in pieces, refuses each size as soon as it is read, and
never holds more than those sizes allow.
"""

import hashlib
import hmac
from dataclasses import dataclass

import xxhash

from memoryd.errors import ImportRefused, StateCorrupt
from memoryd.storage.cut import MAX_CUT_BYTES, Cut

MAGIC = b"mdfile02"
DIGEST_BYTES = 16
SIGNATURE_BYTES = hashlib.sha256().digest_size

_LENGTH_BYTES = 4
_HEAD_BYTES = len(MAGIC) + _LENGTH_BYTES


class FileWriter:
    """Gives the bytes of one file: `begin`, `add` for state and archive in pieces, and `end`.

    key: None leaves the file without a signature.
    """

    def __init__(self, key: bytes | None) -> None:
        self._hmac = hmac.new(key, digestmod=hashlib.sha256) if key is not None else None
        self._digest = xxhash.xxh3_128()

    def begin(self, cut: Cut) -> bytes:
        packed = cut.pack()
        return self.add(b"".join((MAGIC, len(packed).to_bytes(_LENGTH_BYTES, "little"), packed)))

    def add(self, data: bytes) -> bytes:
        if self._hmac is not None:
            self._hmac.update(data)
        self._digest.update(data)
        return data

    def end(self) -> bytes:
        signature = self._hmac.digest() if self._hmac is not None else b""
        signed = bytes([len(signature)]) + signature
        self._digest.update(signed)
        return signed + self._digest.digest()


@dataclass(frozen=True, slots=True)
class PortableSession:
    """What a whole file holds. signed: by the key that the reader was given."""

    cut: Cut
    state: bytes
    archive: bytes
    signed: bool


class FileReader:
    """Takes a file in pieces of any size.

    key: verifies the signature. max_state: bytes that a state of the served model can have.
    max_archive: bytes of an archive that are taken.
    """

    def __init__(self, key: bytes | None, max_state: int, max_archive: int) -> None:
        self._key = key
        self._max_state = max_state
        self._max_archive = max_archive
        self._data = bytearray()
        self._cut: Cut | None = None
        self._begin_state = 0

    def feed(self, data: bytes) -> None:
        """Take the next bytes. Raises ImportRefused as soon as something does not fit."""
        self._data += data
        if self._cut is None:
            self._read_cut()
        if self._cut is not None and len(self._data) > self._end(SIGNATURE_BYTES):
            raise _refused("bytes follow its end")

    def finish(self) -> PortableSession:
        """Give what the whole file holds. Raises ImportRefused."""
        data, cut = self._data, self._cut
        if cut is None:
            raise _refused(f"it ends after {len(data)} bytes")
        end_content = self._end(0) - 1 - DIGEST_BYTES
        if len(data) <= end_content:
            raise _refused(f"it ends after {len(data)} bytes, inside its state or its archive")
        length = data[end_content]
        if length not in (0, SIGNATURE_BYTES) or len(data) != self._end(length):
            raise _refused(f"it does not end where it should, but after {len(data)} bytes")
        with memoryview(data) as view:  # an archive is not copied to be checked
            if xxhash.xxh3_128_digest(view[:-DIGEST_BYTES]) != view[-DIGEST_BYTES:]:
                raise _refused("its digest does not fit its bytes")
            signature = bytes(view[end_content + 1 : end_content + 1 + length])
            signed = self._key is not None and hmac.compare_digest(
                hmac.digest(self._key, view[:end_content], hashlib.sha256), signature
            )
            begin_archive = end_content - cut.archived
            return PortableSession(
                cut,
                bytes(view[self._begin_state : begin_archive]),
                bytes(view[begin_archive:end_content]),
                signed,
            )

    def _read_cut(self) -> None:
        data = self._data
        if data[: len(MAGIC)] != MAGIC[: len(data)]:
            raise _refused("it is no export of a session, or one of another format version")
        if len(data) < _HEAD_BYTES:
            return
        length = int.from_bytes(data[len(MAGIC) : _HEAD_BYTES], "little")
        if length > MAX_CUT_BYTES:
            raise _refused(f"it claims {length} bytes before its state")
        if len(data) < _HEAD_BYTES + length:
            return
        try:
            cut = Cut.unpack(bytes(data[_HEAD_BYTES : _HEAD_BYTES + length]))
        except StateCorrupt as error:
            raise _refused(error.message) from error
        self._begin_state = _HEAD_BYTES + length
        if cut.blob is not None and cut.blob.nbytes > self._max_state:
            raise _refused(
                f"its state has {cut.blob.nbytes} bytes, one of this model at most "
                f"{self._max_state}"
            )
        if cut.archived > self._max_archive:
            raise _refused(
                f"its archive has {cut.archived} bytes, at most {self._max_archive} are taken: "
                "raise max_import_archive_bytes"
            )
        self._cut = cut

    def _end(self, signature: int) -> int:
        """Where the file ends if its signature has so many bytes."""
        content = 0
        if self._cut is not None:
            content = self._cut.archived + (self._cut.blob.nbytes if self._cut.blob else 0)
        return self._begin_state + content + 1 + signature + DIGEST_BYTES


def _refused(what: str) -> ImportRefused:
    return ImportRefused(f"the file was refused: {what}")
