"""A session as one file that another deployment of the same model can read.

Layout, all integers little-endian:

    magic      8 bytes   b"mdfile01"; the digits are the format version
    length     uint32    of the cut
    cut        see cut.py; it names the session, the model, and the state that follows
    state      see codec.py; as many bytes as the cut says, none where it names no checkpoint
    length     uint8     of the signature: 0 or 32
    signature  HMAC-SHA256 (RFC 2104) over everything before its length, by the deployment's key
    digest     16 bytes  xxh3-128 over everything before it

The digest finds accidents, the signature forgery. The reader takes the file in pieces, refuses
each size as soon as it is read, and never holds more than those sizes allow.
"""

import hashlib
import hmac
from dataclasses import dataclass

import xxhash

from memoryd.errors import ImportRefused, StateCorrupt
from memoryd.storage.cut import MAX_CUT_BYTES, Cut

MAGIC = b"mdfile01"
DIGEST_BYTES = 16
SIGNATURE_BYTES = hashlib.sha256().digest_size

_LENGTH_BYTES = 4
_HEAD_BYTES = len(MAGIC) + _LENGTH_BYTES


def write_file(cut: Cut, state: bytes, key: bytes | None) -> bytes:
    """Put a session into one file; state: the body that the cut's checkpoint names, or b"".

    key: None leaves the file without a signature.
    """
    packed = cut.pack()
    content = b"".join((MAGIC, len(packed).to_bytes(_LENGTH_BYTES, "little"), packed, state))
    signature = _sign(key, content) if key is not None else b""
    signed = b"".join((content, bytes([len(signature)]), signature))
    return signed + bytes(xxhash.xxh3_128_digest(signed))


@dataclass(frozen=True, slots=True)
class PortableSession:
    """What a whole file holds. signed: by the key that the reader was given."""

    cut: Cut
    state: bytes
    signed: bool


class FileReader:
    """Takes a file in pieces of any size.

    key: verifies the signature. max_state: bytes that a state of the served model can have.
    """

    def __init__(self, key: bytes | None, max_state: int) -> None:
        self._key = key
        self._max_state = max_state
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
        end_state = self._end(0) - 1 - DIGEST_BYTES
        if len(data) <= end_state:
            raise _refused(f"it ends after {len(data)} bytes, inside its state")
        length = data[end_state]
        if length not in (0, SIGNATURE_BYTES) or len(data) != self._end(length):
            raise _refused(f"it does not end where it should, but after {len(data)} bytes")
        if xxhash.xxh3_128_digest(data[:-DIGEST_BYTES]) != data[-DIGEST_BYTES:]:
            raise _refused("its digest does not fit its bytes")
        content = bytes(data[:end_state])
        signature = bytes(data[end_state + 1 : end_state + 1 + length])
        signed = self._key is not None and hmac.compare_digest(_sign(self._key, content), signature)
        return PortableSession(cut, content[self._begin_state :], signed)

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
        self._cut = cut

    def _end(self, signature: int) -> int:
        """Where the file ends if its signature has so many bytes."""
        state = self._cut.blob.nbytes if self._cut is not None and self._cut.blob is not None else 0
        return self._begin_state + state + 1 + signature + DIGEST_BYTES


def _sign(key: bytes, content: bytes) -> bytes:
    return hmac.new(key, content, hashlib.sha256).digest()


def _refused(what: str) -> ImportRefused:
    return ImportRefused(f"the file was refused: {what}")
