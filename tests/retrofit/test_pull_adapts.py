from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from lalte.checkpoints import pull as pulling
from lalte.checkpoints.adapter import write_adapter
from lalte.checkpoints.cache import DEFAULT_MODEL
from lalte.checkpoints.load import LoadedModel
from lalte.checkpoints.manifest import read_manifest
from lalte.retrofit.routers import HeadRouters


@pytest.fixture
def cache(base: Path, tmp_path: Path) -> Path:
    """A cache with an untrained default model in it."""
    shutil.copytree(base, tmp_path / "cache" / DEFAULT_MODEL)
    return tmp_path / "cache"


def ship(loaded: LoadedModel, base_sha256: str, tmp_path: Path, monkeypatch) -> None:
    routers = HeadRouters(loaded.config, torch.Generator().manual_seed(5))
    tensors = routers.export(torch.bfloat16)
    write_adapter(tmp_path / "shipped", loaded.config.layers, tensors, base_sha256, "It remembers.")
    monkeypatch.setattr(pulling, "ADAPTER", tmp_path / "shipped")


def test_a_pulled_model_gets_the_shipped_routers_without_another_download(
    cache: Path, loaded: LoadedModel, tmp_path: Path, monkeypatch
):
    provenance = loaded.manifest.provenance
    ship(loaded, provenance.source_sha256, tmp_path, monkeypatch)
    lines: list[str] = []
    folder = pulling.pull(cache_dir=cache, on_progress=lines.append)
    adapted = read_manifest(folder)
    assert adapted.provenance.routers.startswith("trained (")
    assert any("trained layers" in line for line in lines)

    pulling.pull(cache_dir=cache, on_progress=lines.append)
    assert read_manifest(folder) == adapted
    assert sum("trained layers" in line for line in lines) == 1


def test_weights_that_the_shipped_routers_do_not_fit_stay_as_they_are(
    cache: Path, loaded: LoadedModel, tmp_path: Path, monkeypatch
):
    ship(loaded, "e" * 64, tmp_path, monkeypatch)
    lines: list[str] = []
    folder = pulling.pull(cache_dir=cache, on_progress=lines.append)
    assert read_manifest(folder) == loaded.manifest
    assert any("stays untrained" in line for line in lines)
