"""A committed state is the same bits however the stream was cut and whoever was in the batch."""

from dataclasses import replace

import pytest
import torch

from lalte.config import GDNConfig, LocalGDNConfig, LTEConfig, ModelConfig, SWAConfig
from lalte.init import random_model
from lalte.presets import tiny_lalte
from lalte.state import StateSlots, copy_slot


def wide_config():
    """The default model's dimensions, nine GDN heads (an odd vector length) included."""
    gdn, lte = GDNConfig(9, 64, 64), LTEConfig(128, (48, 64, 32))
    return ModelConfig(
        vocab_size=1000,
        hidden_size=576,
        intermediate_size=1536,
        num_heads=9,
        num_kv_heads=3,
        head_dim=64,
        layers=(gdn, lte, SWAConfig(100), LocalGDNConfig(16, 32, sinks=2), lte),
        chunk=64,
        max_position=8192,
    )


def final_sums(model, tokens, blocks, sessions):
    """Checksums of `sessions` streams, absorbed `blocks` blocks at a time."""
    slots = StateSlots.allocate(model.config, len(tokens), model.dtype)
    for piece in tokens[:sessions].split(blocks * model.config.chunk, dim=1):
        model.absorb(piece, [slots.view(i) for i in range(sessions)])
    return [slots.checksum(i) for i in range(sessions)]


COMPANY = [(1, 4), (2, 3), (3, 2), (10, 4), (5, 1)]  # blocks at a time, sessions in a batch


def check(config, dtype, blocks, company=COMPANY):
    model = random_model(config, 1, dtype)
    generator = torch.Generator().manual_seed(5)
    tokens = torch.randint(0, config.vocab_size, (4, blocks * config.chunk), generator=generator)
    expected = [final_sums(model, tokens[i : i + 1], 1, 1)[0] for i in range(4)]
    for m, sessions in company:
        assert final_sums(model, tokens, m, sessions) == expected[:sessions], (m, sessions)


@pytest.mark.parametrize("grid", ["chunk", "token"])
@pytest.mark.parametrize("kinds", [("gdn", "lte", "gdn", "lte"), ("lte", "swa", "full", "nsa")])
def test_bf16_state_does_not_depend_on_cut_or_batch(kinds, grid):
    check(tiny_lalte(kinds, eviction_grid=grid), torch.bfloat16, 10)


def test_bf16_state_does_not_depend_on_cut_or_batch_at_the_default_models_size():
    check(wide_config(), torch.bfloat16, 5)


def test_two_threads_do_not_change_what_a_batch_leaves():
    torch.set_num_threads(2)
    config = wide_config()
    # Few layers and blocks: threads that wait for each other are slow on a busy machine.
    config = replace(config, layers=config.layers[:2])
    check(config, torch.bfloat16, 2, [(2, 3)])


def test_sessions_at_different_offsets_share_a_batch_without_a_trace():
    config = tiny_lalte(("gdn", "lte"))
    model = random_model(config, 1, torch.bfloat16)
    tokens = torch.randint(0, 512, (2, 96), generator=torch.Generator().manual_seed(6))
    alone = [final_sums(model, tokens[i : i + 1], 1, 1)[0] for i in range(2)]
    slots = StateSlots.allocate(config, 5, torch.bfloat16)
    views = [slots.view(3), slots.view(1)]
    model.absorb(tokens[:1, :40], views[:1])
    ahead = torch.stack([tokens[0, 40:], tokens[1, :56]])
    model.absorb(ahead, views)
    model.absorb(tokens[1:, 56:], views[1:])
    assert [slots.checksum(3), slots.checksum(1)] == alone


def test_a_question_on_a_copy_leaves_no_trace_in_what_follows():
    config = tiny_lalte(("gdn", "lte"))
    model = random_model(config, 1, torch.bfloat16)
    tokens = torch.randint(0, 512, (1, 160), generator=torch.Generator().manual_seed(7))
    slots = StateSlots.allocate(config, 2, torch.bfloat16)
    for piece in tokens.split(16, dim=1):
        model.absorb(piece, [slots.view(0)])
        copy_slot(slots, 0, slots, 1)
        model.extend(torch.arange(21), slots.view(1))
        model.step(torch.tensor([4]), slots.view(1))
    assert slots.checksum(0) == final_sums(model, tokens, 2, 1)[0]


def test_a_loaded_state_reads_on_to_the_same_bits_in_calls_of_any_length():
    config = tiny_lalte(("gdn", "lte", "swa"))
    model = random_model(config, 1, torch.bfloat16)
    tokens = torch.randint(0, 512, (1, 30 * 8), generator=torch.Generator().manual_seed(8))
    expected = final_sums(model, tokens, 1, 1)[0]
    for before, blocks in [(3, 27), (8, 5), (11, 9), (17, 2)]:
        slots = StateSlots.allocate(config, 2, torch.bfloat16)
        model.absorb(tokens[:, : before * 8], [slots.view(0)])
        slots.load_arrays(1, slots.to_arrays(0), before * 8)
        for piece in tokens[:, before * 8 :].split(blocks * 8, dim=1):
            model.absorb(piece, [slots.view(1)])
        assert slots.checksum(1) == expected, (before, blocks)
