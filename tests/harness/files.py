"""Export files made by tests."""

from memoryd.storage.cut import Cut
from memoryd.storage.portable import FileWriter


def write_file(cut: Cut, state: bytes, key: bytes | None, archive: bytes = b"") -> bytes:
    """A session as one file; state: the body that the cut's checkpoint names, or b""."""
    writer = FileWriter(key)
    return b"".join((writer.begin(cut), writer.add(state), writer.add(archive), writer.end()))
