"""The peer: transformers' Llama with the weights of the model that the daemon serves."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

from lalte.checkpoints.load import load_model
from lalte.names import llama_name_map
from lalte.text import StreamEncoder


@dataclass(frozen=True)
class PeerFigures:
    """Rates in tokens a second, times in seconds, the cache in bytes."""

    prefill_rate: float
    first_token_seconds: float
    decode_rate: float
    cache_bytes: int


class LlamaPeer:
    """Full attention in bfloat16 with scaled_dot_product_attention, batch 1, greedy."""

    def __init__(self, folder: Path) -> None:
        loaded = load_model(folder, dtype=torch.bfloat16)
        config = loaded.config
        self._encoder = StreamEncoder(loaded.tokenizer)
        self.max_position = config.max_position
        self._model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=config.vocab_size,
                hidden_size=config.hidden_size,
                intermediate_size=config.intermediate_size,
                num_hidden_layers=len(config.layers),
                num_attention_heads=config.num_heads,
                num_key_value_heads=config.num_kv_heads,
                head_dim=config.head_dim,
                rms_norm_eps=config.rms_norm_eps,
                rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
                tie_word_embeddings=config.tie_embeddings,
                max_position_embeddings=config.max_position,
            )
        ).bfloat16()
        ours = loaded.model.state_dict()
        names = llama_name_map(config)
        self._model.load_state_dict(
            {theirs: ours[name] for theirs, name in names.items()}, strict=False
        )
        self._model.eval()  # type: ignore[no-untyped-call]

    def encode(self, text: str) -> list[int]:
        return self._encoder.take(b"", text.encode(), final=True).ids

    @torch.inference_mode()
    def measure(self, tokens: list[int], question: list[int], reply_tokens: int) -> PeerFigures:
        """Reads `tokens` at once, then the question on the cache that is held, then writes."""
        cache = DynamicCache()
        begin = time.perf_counter()
        self._read(tokens, cache)
        read = time.perf_counter()
        token = self._read(question, cache)
        first = time.perf_counter()
        for _ in range(reply_tokens - 1):
            token = self._read([token], cache)
        written = time.perf_counter()
        layers: Any = cache.layers  # the base class of their type names no tensors
        return PeerFigures(
            prefill_rate=len(tokens) / (read - begin),
            first_token_seconds=first - read,
            decode_rate=(reply_tokens - 1) / (written - first),
            cache_bytes=sum(part.nbytes for layer in layers for part in (layer.keys, layer.values)),
        )

    def _read(self, tokens: list[int], cache: DynamicCache) -> int:
        out = self._model(torch.tensor([tokens]), past_key_values=cache, logits_to_keep=1)
        return int(out.logits[0, -1].argmax())
