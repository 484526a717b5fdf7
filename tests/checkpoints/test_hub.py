"""Repositories of the Hugging Face hub, over real HTTP: what is fetched, resumed and refused."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants
import pytest

from harness.hub_server import Hub, Repository, serve_hub
from lalte.checkpoints.errors import PullError
from lalte.checkpoints.hub import download, is_repository_name
from lalte.checkpoints.verify import verify

NAME = "someone/a-model"
WEIGHTS = "model.safetensors"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serve_hub() as hub:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.url)
        monkeypatch.setenv("HF_TOKEN", "a-token")
        yield hub


@pytest.fixture
def published(make, hub: Hub, tmp_path: Path) -> Repository:
    folder = make.hf_folder(tmp_path / "published")
    for other in ("README.md", "pytorch_model.bin", "tokenizer.model", "training_args.bin"):
        (folder / other).write_bytes(b"what no conversion needs")
    hub.repositories[NAME] = Repository(folder)
    return hub.repositories[NAME]


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_only_what_is_needed_is_downloaded(hub: Hub, published: Repository, tmp_path: Path):
    found = download(NAME, folder=tmp_path / "downloads")
    names = {"config.json", "tokenizer.json", "tokenizer_config.json", WEIGHTS}
    assert {path.name for path in found.folder.iterdir()} == names
    assert sorted(hub.files_asked_for()) == sorted((name, 0) for name in names)
    assert found.sha256 == {name: sha256(published.folder / name) for name in names}
    assert (found.repository, found.commit, found.license) == (NAME, published.commit, "mit")
    assert all(finding.fits for finding in verify(found.folder))
    assert hub.tokens == {"a-token"}


def test_weights_in_parts_and_a_sentencepiece_model(make, hub: Hub, tmp_path: Path):
    folder = make.hf_folder(tmp_path / "published", shards=2)
    (folder / "tokenizer.json").rename(folder / "tokenizer.model")
    (folder / "generation_config.json").write_text("{}")
    (folder / "chat_template.jinja").write_text("")
    hub.repositories[NAME] = Repository(folder)
    found = download(NAME, folder=tmp_path / "downloads")
    assert {path.name for path in found.folder.iterdir()} == {p.name for p in folder.iterdir()}


def test_a_commit_is_told_from_another(hub: Hub, published: Repository, tmp_path: Path):
    downloads = tmp_path / "downloads"
    first = download(NAME, folder=downloads)
    published.commit, published.branches = "f" * 40, ("main", "v2")
    (published.folder / "config.json").write_text("{}")
    for revision in ("v2", "f" * 40):
        second = download(NAME, revision, folder=downloads)
        assert (second.commit, second.folder.name) == ("f" * 40, "f" * 40)
    assert (second.folder / "config.json").read_text() == "{}"
    assert (first.folder / "config.json").read_text() != "{}"
    second.remove()
    assert first.folder.exists()
    first.remove()
    assert list(downloads.iterdir()) == []


def test_what_is_here_is_not_asked_for_again(hub: Hub, published: Repository, tmp_path: Path):
    first = download(NAME, folder=tmp_path)
    hub.requests.clear()
    assert download(NAME, folder=tmp_path) == first
    assert hub.files_asked_for() == []


def test_an_interrupted_download_goes_on_where_it_stopped(
    hub: Hub, published: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    # Whole chunks are kept; huggingface_hub's of 10 MB are larger than this file.
    monkeypatch.setattr(huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", 4096)
    published.breaks[WEIGHTS] = 10_000
    with pytest.raises(PullError, match="call it again: it goes on where it stopped"):
        download(NAME, folder=tmp_path)
    (part,) = tmp_path.rglob("*.part")
    kept = part.stat().st_size
    assert kept == 8192
    hub.failing = False
    hub.requests.clear()
    found = download(NAME, folder=tmp_path)
    assert hub.files_asked_for() == [(WEIGHTS, kept)]
    assert sha256(found.folder / WEIGHTS) == sha256(published.folder / WEIGHTS)


def test_a_part_that_is_too_long_is_fetched_anew(hub: Hub, published: Repository, tmp_path: Path):
    place = tmp_path / NAME.replace("/", "--") / published.commit
    place.mkdir(parents=True)
    (place / f"{WEIGHTS}.part").write_bytes(bytes(10**6))
    found = download(NAME, folder=tmp_path)
    assert found.sha256[WEIGHTS] == sha256(published.folder / WEIGHTS)


def test_content_that_is_not_what_the_hub_says_is_deleted(
    hub: Hub, published: Repository, tmp_path: Path
):
    published.lies = (WEIGHTS,)
    with pytest.raises(PullError, match=r"model\.safetensors has sha256 \w+, the hub says"):
        download(NAME, folder=tmp_path)
    assert not list(tmp_path.rglob(f"{WEIGHTS}*"))[1:]  # the published one is the only one
    published.lies = ()
    found = download(NAME, folder=tmp_path)
    (found.folder / WEIGHTS).write_bytes(b"altered since")
    with pytest.raises(PullError, match="what was downloaded is deleted"):
        download(NAME, folder=tmp_path)


def test_progress_ends_with_all_bytes(hub: Hub, published: Repository, tmp_path: Path):
    seen: list[tuple[str, int, int]] = []
    download(NAME, folder=tmp_path, on_bytes=lambda *told: seen.append(told))
    size = (published.folder / WEIGHTS).stat().st_size
    assert seen[-1] == (WEIGHTS, size, size)
    assert all(done <= total for _, done, total in seen)


def test_refusals_say_what_to_do(hub: Hub, published: Repository, tmp_path: Path, monkeypatch):
    def refusal(name: str = NAME, revision: str | None = None) -> str:
        with pytest.raises(PullError) as caught:
            download(name, revision, folder=tmp_path / "downloads")
        return str(caught.value)

    assert "neither a folder here nor a repository that the hub shows you" in refusal("some/other")
    assert "neither a folder here nor" in refusal("not--a/name")
    assert "has no revision 'v9' on the hub" in refusal(revision="v9")
    published.gated = True
    assert f"is gated: accept its conditions at {hub.url}/{NAME}, then" in refusal()
    published.gated = False
    hub.failing = True
    assert "could not be downloaded (Server error '503" in refusal()
    hub.failing = False
    (published.folder / WEIGHTS).unlink()
    assert "neither model.safetensors nor model.safetensors.index.json" in refusal()
    for wrong in ("absent.safetensors", "../config.json"):
        index = {"weight_map": {"a": wrong}}
        (published.folder / "model.safetensors.index.json").write_text(json.dumps(index))
        published.commit = wrong[:1] * 40  # a new commit
        assert f"names files that it lacks: ['{wrong}']" in refusal()
    (published.folder / "config.json").unlink()
    assert "has no config.json" in refusal()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE forbids" in refusal()


def test_an_unreachable_hub_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with serve_hub() as gone:
        url = gone.url
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", url)
    with pytest.raises(PullError, match=r"could not be downloaded \(.+\)\. Check the network"):
        download(NAME, folder=tmp_path)


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        ("idiap/gated-deltanet-lte-0.4B-10B", True),
        ("a/b", True),
        ("a", False),
        ("a/b/c", False),
        ("./a/b", False),
        ("../b", False),
        ("/a/b", False),
        ("a/", False),
        ("a/..", False),
        ("a b/c", False),
    ],
)
def test_names_of_repositories(name: str, is_one: bool):
    assert is_repository_name(name) is is_one
