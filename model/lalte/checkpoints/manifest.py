"""The manifest of a model folder: what the model is made from, and the hash of every file.

A model folder holds config.json, model.safetensors, tokenizer.json, turn_format.json and
manifest.json. The fingerprint covers the first four: two folders with one fingerprint compute the
same function of the same text.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from lalte.checkpoints.errors import CheckpointError, ModelNotFound
from lalte.checkpoints.hashing import xxh3_hex, xxh3_hex_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

FORMAT_VERSION = 1
MANIFEST_FILE = "manifest.json"
CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
TOKENIZER_FILE = "tokenizer.json"
TURN_FORMAT_FILE = "turn_format.json"
HASHED_FILES = (CONFIG_FILE, WEIGHTS_FILE, TOKENIZER_FILE, TURN_FORMAT_FILE)

UNTRAINED = "untrained"


def trained(adapter_sha256: str) -> str:
    """What a manifest says of routers (and GDN branches) that come from an adapter."""
    return f"trained ({adapter_sha256})"


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a model comes from.

    source: the file, package or repository, for a person.
    source_sha256: of the weights that were converted.
    routers: UNTRAINED, or `trained` with the sha256 of the adapter that holds them.
    license: SPDX identifier, or "" where the source names none.
    notes: sentences that whoever uses the model must know.
    source_files: sha256 of each file that was downloaded from the hub, by name.
    """

    name: str
    source: str
    source_sha256: str
    routers: str
    license: str
    notes: tuple[str, ...]
    source_files: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FileEntry:
    """Size in bytes and xxh3-128 (hex) of one file."""

    nbytes: int
    xxh3: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """What manifest.json holds."""

    format_version: int
    fingerprint: str
    provenance: Provenance
    files: Mapping[str, FileEntry]

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1, sort_keys=True) + "\n"


def make_manifest(folder: Path, provenance: Provenance) -> Manifest:
    """Hash the files of a finished folder."""
    files = {name: hash_file(folder / name) for name in HASHED_FILES}
    return Manifest(FORMAT_VERSION, fingerprint_of(files), provenance, files)


def fingerprint_of(files: Mapping[str, FileEntry]) -> str:
    """xxh3-128 (hex) over the names and hashes of HASHED_FILES, in that order."""
    lines = "".join(f"{name} {files[name].xxh3}\n" for name in HASHED_FILES)
    return xxh3_hex_of(lines.encode())


def hash_file(path: Path) -> FileEntry:
    return FileEntry(path.stat().st_size, xxh3_hex(path))


def read_manifest(folder: Path) -> Manifest:
    """Read manifest.json. Raises ModelNotFound, or CheckpointError for one that does not fit."""
    path = folder / MANIFEST_FILE
    if not path.is_file():
        raise ModelNotFound(folder)
    try:
        manifest = _parse(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(path, f"cannot be read ({error!r}); pull or convert again") from error
    if manifest.format_version != FORMAT_VERSION:
        raise CheckpointError(
            path,
            f"has format version {manifest.format_version}; this memoryd reads {FORMAT_VERSION}. "
            "Convert the model again, or use the memoryd that wrote it",
        )
    return manifest


def verify_folder(folder: Path) -> Manifest:
    """Read the manifest and compare every file with it. Raises CheckpointError naming the file."""
    manifest = read_manifest(folder)
    for name in HASHED_FILES:
        path = folder / name
        if not path.is_file():
            raise CheckpointError(path, "is missing; pull or convert the model again")
        found, expected = hash_file(path), manifest.files[name]
        if found != expected:
            raise CheckpointError(
                path,
                f"was altered or cut short: {found.nbytes} bytes with xxh3 {found.xxh3}, the "
                f"manifest says {expected.nbytes} and {expected.xxh3}; pull or convert again",
            )
    if fingerprint_of(manifest.files) != manifest.fingerprint:
        raise CheckpointError(folder, "the manifest's fingerprint is not that of its files")
    return manifest


def _parse(data: dict[str, Any]) -> Manifest:
    made = data["provenance"]
    return Manifest(
        format_version=int(data["format_version"]),
        fingerprint=str(data["fingerprint"]),
        provenance=Provenance(**made | {"notes": tuple(made["notes"])}),
        files={name: FileEntry(**data["files"][name]) for name in HASHED_FILES},
    )
