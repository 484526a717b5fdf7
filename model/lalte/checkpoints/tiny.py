"""A whole model folder of random weights, made in a moment and without a network.

It says nothing sensible; it runs the same code as a real model, evicts after 20 tokens, and is what
services are tested with.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from lalte.checkpoints.folder import write_model_folder
from lalte.checkpoints.gguf_tokenizer import tokenizer_json
from lalte.checkpoints.manifest import Manifest, Provenance
from lalte.init import random_model
from lalte.presets import tiny_lalte
from lalte.text import Tokenizer, derive_turn_format
from lalte.text.byte_level import byte_alphabet

if TYPE_CHECKING:
    from pathlib import Path

    from lalte.config import ModelConfig

_SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")

_WORDS = (
    "the and that have with this from they will would there their what about which when make "
    "like time just know take people into year your good some could them other than then look "
    "only come over think also back after use two how our work first well way even new want "
    "because any these give day most us is was are for not you all can had her one out who get "
    "before should through between always number under never again place world "
    "remember forget question"
)

_TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou remember what you are told.<|im_end|>\n' }}"
    "{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def write_tiny_model(folder: Path, seed: int = 0, config: ModelConfig | None = None) -> Manifest:
    """Write a tiny random model, as a function of `seed`; folder must not exist.

    config: None is tiny_lalte(). Its vocabulary must be one that the word list can fill.
    """
    config = config or tiny_lalte()
    tokenizer_text = tiny_tokenizer_json(config.vocab_size)
    tokenizer = Tokenizer.from_json(tokenizer_text)
    end = "<|im_end|>"
    turn_format = derive_turn_format(
        _TEMPLATE, tokenizer, bos="", eos=end, stop_ids=frozenset({tokenizer.special_id(end)})
    )
    return write_model_folder(
        folder,
        config=config,
        tensors=random_model(config, seed=seed, dtype=torch.bfloat16).state_dict(),
        tokenizer_json=tokenizer_text,
        turn_format=turn_format,
        provenance=Provenance(
            name="tiny-random",
            source=f"random weights, seed {seed}",
            source_sha256="",
            routers="random",
            license="Apache-2.0",
            notes=("Random weights, for tests: its replies mean nothing.",),
        ),
    )


def tiny_tokenizer_json(vocab_size: int) -> str:
    """Write a byte-level tokenizer: three specials, 256 bytes, then the beginnings of words."""
    tokens = [*_SPECIALS, *byte_alphabet().values()]
    merges: list[str] = []
    for word in _WORDS.split():
        for end in range(1, len(word) + 1):
            token = "Ġ" + word[:end]
            if token not in tokens and len(tokens) < vocab_size:
                tokens.append(token)
                merges.append(f"Ġ{word[: end - 1]} {word[end - 1]}")
    if len(tokens) != vocab_size:
        raise ValueError(f"the word list makes {len(tokens)} tokens of {vocab_size}: add words")
    fields = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3] * len(_SPECIALS) + [1] * (len(tokens) - len(_SPECIALS)),
        "tokenizer.ggml.merges": merges,
    }
    return tokenizer_json("tiny", fields)
