"""Downloads what a conversion needs of a repository on the Hugging Face hub, and nothing else.

A repository's revision is first resolved to a commit; every file is that commit's. A file is
written as `NAME.part` until it is whole and is what the hub says, so that a download that was
broken off, by whatever, goes on where it stopped.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NoReturn, cast
from urllib.parse import quote

from lalte.checkpoints.cache import default_download_dir
from lalte.checkpoints.errors import PullError
from lalte.checkpoints.hashing import sha256_hex
from lalte.checkpoints.hub_folder import (
    CHAT_TEMPLATE,
    CONFIG,
    GENERATION_CONFIG,
    SENTENCEPIECE,
    TOKENIZER,
    TOKENIZER_CONFIG,
    WEIGHTS,
    WEIGHTS_INDEX,
)

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import ModelInfo, RepoSibling

OnBytes = Callable[[str, int, int], None]
"""Gets the name of a file, how many bytes of it and those before it are here, and of how many."""

_TEXTS = (CONFIG, GENERATION_CONFIG, TOKENIZER_CONFIG, CHAT_TEMPLATE)
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True, slots=True)
class HubFolder:
    """A commit of a repository, downloaded.

    sha256: of each file, by name. license: as the repository's card has it, "" for none.
    """

    repository: str
    commit: str
    folder: Path
    sha256: Mapping[str, str]
    license: str

    @property
    def origin(self) -> str:
        """What a manifest calls it."""
        return f"{self.repository} at {self.commit} on the Hugging Face hub"

    def remove(self) -> None:
        """Delete the download."""
        shutil.rmtree(self.folder)
        with contextlib.suppress(OSError):  # another commit lies beside it
            self.folder.parent.rmdir()


def is_repository_name(name: str) -> bool:
    """Whether `name` has the form ORGANISATION/NAME."""
    return _REPOSITORY.fullmatch(name) is not None


def download(
    repository: str,
    revision: str | None = None,
    *,
    folder: Path | None = None,
    on_bytes: OnBytes = lambda _name, _done, _total: None,
) -> HubFolder:
    """Download a model: settings, tokenizer and safetensors.

    revision: a branch, tag or commit; None is the main branch.
    folder: where downloads lie, each in a folder of its own; None is the user's cache folder.
    HF_ENDPOINT and HF_TOKEN are huggingface_hub's. Raises PullError.
    """
    import httpx2
    from huggingface_hub import HfApi, errors

    api = HfApi()
    try:
        info = api.model_info(repository, revision=revision or "main", files_metadata=True)
        commit = str(info.sha)
        place = (folder or default_download_dir()) / repository.replace("/", "--") / commit
        place.mkdir(parents=True, exist_ok=True)
        files = _Files(api, repository, commit, _published(info), place, on_bytes)
        names = files.fetch(_needed_texts(repository, files.published))
        names |= files.fetch(_weights(repository, place, files.published))
    except errors.GatedRepoError as error:
        _refuse(
            repository,
            f"is gated: accept its conditions at {api.endpoint}/{repository}, then give your token "
            "in HF_TOKEN",
            error,
        )
    except errors.RevisionNotFoundError as error:
        _refuse(
            repository, f"has no revision {revision!r} on the hub; name another --revision", error
        )
    except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
        _refuse(
            repository,
            "is neither a folder here nor a repository that the hub shows you; check the name, and "
            "give a token in HF_TOKEN if it is private",
            error,
        )
    except errors.OfflineModeIsEnabled as error:
        _refuse(repository, "is not here, and HF_HUB_OFFLINE forbids to download it", error)
    except (httpx2.HTTPError, OSError, ValueError) as error:
        said = (str(error).strip() or repr(error)).splitlines()[0]
        _refuse(
            repository,
            f"could not be downloaded ({said}). Check the network and call it again: it goes on "
            "where it stopped",
            error,
        )
    licenses = [
        tag.removeprefix("license:") for tag in info.tags or [] if tag.startswith("license:")
    ]
    return HubFolder(repository, commit, place, names, (licenses or [""])[0])


def _refuse(repository: str, reason: str, error: Exception) -> NoReturn:
    raise PullError(repository, reason) from error


@dataclass(frozen=True, slots=True)
class _Published:
    """What the hub says of a file; sha256 is "" for those in git itself, which are small."""

    nbytes: int
    sha256: str


def _published(info: ModelInfo) -> dict[str, _Published]:
    def of(file: RepoSibling) -> _Published:
        return _Published(file.size or 0, file.lfs.sha256 if file.lfs else "")

    return {file.rfilename: of(file) for file in info.siblings or []}


def _needed_texts(repository: str, published: Mapping[str, object]) -> list[str]:
    if CONFIG not in published:
        raise PullError(repository, f"has no {CONFIG}, so it is no model that can be converted")
    tokenizer = TOKENIZER if TOKENIZER in published else SENTENCEPIECE
    index = [] if WEIGHTS in published else [WEIGHTS_INDEX]
    return [name for name in (*_TEXTS, tokenizer, *index) if name in published]


def _weights(repository: str, folder: Path, published: Mapping[str, object]) -> list[str]:
    if WEIGHTS in published:
        return [WEIGHTS]
    if WEIGHTS_INDEX not in published:
        raise PullError(
            repository,
            f"has neither {WEIGHTS} nor {WEIGHTS_INDEX}; other formats are not downloaded. Convert "
            "a GGUF file by downloading it and naming the file",
        )
    index = json.loads((folder / WEIGHTS_INDEX).read_text(encoding="utf-8"))
    names = sorted(set(index["weight_map"].values()))
    missing = [name for name in names if name not in published or "/" in name]
    if missing:
        raise PullError(repository, f"its {WEIGHTS_INDEX} names files that it lacks: {missing}")
    return names


class _Files:
    """The files of one commit, fetched into a folder."""

    def __init__(
        self,
        api: HfApi,
        repository: str,
        commit: str,
        published: Mapping[str, _Published],
        folder: Path,
        on_bytes: OnBytes,
    ) -> None:
        self._api = api
        self._repository = repository
        self._commit = commit
        self.published = published
        self._folder = folder
        self._on_bytes = on_bytes

    def fetch(self, names: list[str]) -> dict[str, str]:
        """Bring the files here that are not; returns the sha256 of each, by name."""
        total = sum(self.published[name].nbytes for name in names)
        done = 0
        found: dict[str, str] = {}
        for name in names:
            found[name] = self._one(name, done, total)
            done += self.published[name].nbytes
            self._on_bytes(name, done, total)
        return found

    def _one(self, name: str, before: int, total: int) -> str:
        path, part = self._folder / name, self._folder / f"{name}.part"
        if not path.exists():
            self._get(name, part, before, total)
        found = sha256_hex([path if path.exists() else part])
        if found != (self.published[name].sha256 or found):
            path.unlink(missing_ok=True)
            part.unlink(missing_ok=True)
            raise PullError(
                self._repository,
                f"{name} has sha256 {found}, the hub says {self.published[name].sha256}: what was "
                "downloaded is deleted; call it again",
            )
        if part.exists():
            part.replace(path)
        return found

    def _get(self, name: str, part: Path, before: int, total: int) -> None:
        from huggingface_hub.file_download import http_get
        from huggingface_hub.utils import (  # type: ignore[attr-defined]  # documented there
            build_hf_headers,
            disable_progress_bars,
        )

        disable_progress_bars("huggingface_hub.http_get")  # on_bytes is ours
        nbytes = self.published[name].nbytes
        if part.exists() and part.stat().st_size > nbytes:
            part.unlink()
        with part.open("ab") as file:
            counted = _Counted(file, lambda at: self._on_bytes(name, before + at, total))
            http_get(
                f"{self._api.endpoint}/{self._repository}/resolve/{self._commit}/{quote(name)}",
                cast(BinaryIO, counted),
                resume_size=file.tell(),
                headers=build_hf_headers(),
                expected_size=nbytes,
            )


class _Counted:
    """A file that says how far it has been written."""

    def __init__(self, file: BinaryIO, on_size: Callable[[int], None]) -> None:
        self._file = file
        self._on_size = on_size

    def write(self, data: bytes) -> int:
        written = self._file.write(data)
        self._on_size(self._file.tell())
        return written

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)
