"""A folder laid out like Idiap's published checkpoints is verified, converted and served."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from harness.daemons import DaemonProcess
from harness.metaspace import train_metaspace_spec, write_sentencepiece
from harness.streams import GREEDY, absorbed
from lalte.checkpoints.fla import tensor_shapes
from lalte.checkpoints.fla_config import Serving, read_settings
from lalte.text import StreamEncoder, Tokenizer
from memoryd.cli import app
from memoryd_client import Piece, Role

VOCAB = 512
SETTINGS = {
    "attn": {
        "attn_type": "lte",
        "buffer_size": 12,
        "conv_dilation": [2, 2, 2],
        "conv_size": [3, 3, 3],
        "layers": [1, 3],
        "num_heads": 4,
        "num_kv_heads": 2,
        "qkv_bias": False,
        "rope_theta": 10000.0,
        "routing_grad": True,
        "routing_method": "sigmoid",
        "routing_shared": "head",
        "sink_size": 4,
        "window_size": 20,
    },
    "conv_size": 4,
    "expand_v": 1,
    "head_dim": 16,
    "hidden_act": "swish",
    "hidden_ratio": 4,
    "hidden_size": 64,
    "intermediate_size": None,
    "max_position_embeddings": 4096,
    "model_type": "hybrid_gated_deltanet",
    "norm_eps": 1e-06,
    "num_heads": 2,
    "num_hidden_layers": 4,
    "tie_word_embeddings": True,
    "use_gate": True,
    "use_short_conv": True,
    "vocab_size": VOCAB,
}
TEXT = "The river  remembers: 記憶 🙂\n\n    ключ, naïve; don't forget the ▁abc. " * 8


@pytest.fixture(params=["tokenizer.json", "tokenizer.model"])
def published(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Random weights and a tokenizer like Llama 2's."""
    folder = tmp_path / "published"
    folder.mkdir()
    spec = train_metaspace_spec()
    settings = SETTINGS | {"eos_token_id": spec["model"]["vocab"]["</s>"]}
    (folder / "config.json").write_text(json.dumps(settings))
    shapes = tensor_shapes(read_settings(Path("c"), settings, Serving(chunk=8, position_span=64)))
    generator = torch.Generator().manual_seed(5)
    tensors = {
        name: torch.randn(shape, generator=generator) / max(shape[-1], 1) ** 0.5
        for name, shape in shapes.items()
    }
    save_file(tensors, folder / "model.safetensors")
    if request.param == "tokenizer.json":
        (folder / "tokenizer.json").write_text(json.dumps(spec))
    else:
        write_sentencepiece(folder / "tokenizer.model", spec)
    said = {"add_bos_token": True, "bos_token": "<s>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(said))
    return folder


def test_it_is_verified_converted_and_answers(
    published: Path, tmp_path: Path, start_daemon: Callable[..., DaemonProcess]
) -> None:
    def run(*arguments: object) -> None:
        result = CliRunner().invoke(app, ["model", *map(str, arguments)])
        assert result.exit_code == 0, result.output

    ours = tmp_path / "ours"
    run("verify", published, "--chunk", 8)
    run("convert", published, ours, "--chunk", 8, "--position-span", 64)
    run("verify", ours)
    tokenizer = Tokenizer.load(ours)
    ids = StreamEncoder(tokenizer).take(b"", TEXT.encode(), final=True).ids
    assert tokenizer.decode(ids) == TEXT

    daemon = start_daemon("a", model=ours)
    with daemon.client() as client:
        data = TEXT.encode()
        for name, size in (("whole", len(data)), ("cut", 17)):  # some inside characters
            client.create_session(name)
            writer = client.writer(name)
            for at in range(0, len(data), size):
                piece = data[at : at + size]
                writer.append(Piece(Role.USER, piece, open=at + size < len(data)))
            assert absorbed(client, name).acked_tokens == 1 + len(ids)  # BOS, and no more
        replies = {}
        for name in ("whole", "cut"):
            reply = client.query(name, "What is remembered?", sampling=GREEDY)
            shown = reply.text()
            assert shown == tokenizer.decode(reply.token_ids)
            replies[name] = (shown, reply.token_ids)
        assert replies["whole"] == replies["cut"]
        assert replies["whole"][1]
