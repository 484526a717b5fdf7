"""A state's size, its form as arrays, and every refusal of a state that does not fit."""

from dataclasses import replace

import pytest
import torch

from lalte.config import LTEConfig, ModelConfig
from lalte.init import random_model
from lalte.presets import tiny_lalte
from lalte.state import Array, StateError, StateSlots, copy_slot, nbytes

KINDS = ("gdn", "lte", "swa", "full", "nsa", "local_gdn")
DTYPES = [torch.bfloat16, torch.float32, torch.float64]


def config_of(kinds=KINDS):
    return tiny_lalte(kinds, budget=9)


def absorbed(config, blocks, dtype=torch.float32, seed=0, count=1):
    """Slots whose first has read `blocks` blocks, and the model that did it."""
    model = random_model(config, 3, dtype)
    slots = StateSlots.allocate(config, count, dtype)
    generator = torch.Generator().manual_seed(seed)
    if blocks:
        tokens = torch.randint(1, 512, (1, blocks * config.chunk), generator=generator)
        model.absorb(tokens, [slots.view(0)])
    return model, slots


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("blocks", [0, 1, 2, 11])
def test_nbytes_is_what_is_stored_to_the_byte(dtype, blocks):
    config = config_of()
    _, slots = absorbed(config, blocks, dtype)
    stored = sum(len(array.data) for array in slots.to_arrays(0).values())
    assert nbytes(config, dtype, blocks * config.chunk) == stored


def test_size_does_not_grow_with_the_stream_without_full_attention():
    config = config_of(("gdn", "local_gdn", "lte", "swa"))
    assert config.constant_size
    sizes = set()
    for blocks in (0, 1, 40):
        _, slots = absorbed(config, blocks)
        sizes.add(sum(len(array.data) for array in slots.to_arrays(0).values()))
    assert sizes == {nbytes(config, torch.float32)}


def test_nothing_padded_is_stored_where_budgets_differ():
    config = config_of(("lte",))
    arrays = absorbed(config, 20)[1].to_arrays(0)
    assert arrays["layers.0.lte.retained_key"].shape == (9 + 6, 16)


@pytest.mark.parametrize("grid", ["chunk", "token"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("blocks", [0, 1, 2, 11])
def test_a_loaded_state_is_the_same_bits_and_goes_on_the_same_way(dtype, blocks, grid):
    config = replace(config_of(), eviction_grid=grid)
    model, slots = absorbed(config, blocks, dtype)
    arrays = slots.to_arrays(0)
    other = StateSlots.allocate(config, 3, dtype)
    model.absorb(torch.full((1, 16), 5), [other.view(1)])  # what was there before must not show
    other.load_arrays(1, arrays, blocks * config.chunk)
    assert other.to_arrays(1) == arrays
    assert other.checksum(1) == slots.checksum(0)

    question = torch.arange(1, 14)
    copy = StateSlots.allocate(config, 1, dtype)
    copy_slot(other, 1, copy, 0)
    expected = model.extend(question, slots.view(0))
    assert torch.equal(model.extend(question, copy.view(0)), expected)
    assert torch.equal(model.extend(question, other.view(1)), expected)


def test_a_copy_takes_the_open_block_along_and_leaves_the_original_alone():
    config = config_of()
    model, slots = absorbed(config, 6, count=2)
    before = slots.checksum(0)
    copy = StateSlots.allocate(config, 2)
    copy_slot(slots, 0, copy, 1)
    model.extend(torch.arange(30), copy.view(1))
    copy_slot(copy, 1, slots, 1)
    assert slots.offsets == [48, 78]
    assert slots.checksum(0) == before
    ahead = model.extend(torch.arange(5), copy.view(1))
    assert torch.equal(model.extend(torch.arange(5), slots.view(1)), ahead)


def test_a_reset_slot_is_an_empty_one():
    config = config_of()
    _, slots = absorbed(config, 6)
    slots.reset(0)
    assert slots.checksum(0) == StateSlots.allocate(config, 1).checksum(0)
    assert slots.offsets == [0]


def test_a_copy_between_models_is_refused():
    with pytest.raises(StateError, match="another model"):
        copy_slot(StateSlots.allocate(config_of(), 1), 0, StateSlots.allocate(tiny_lalte(), 1), 0)


def test_an_open_block_is_not_stored():
    config = config_of()
    model, slots = absorbed(config, 2)
    model.extend(torch.tensor([1]), slots.view(0))
    with pytest.raises(StateError, match="offset: must be a multiple of the chunk"):
        slots.to_arrays(0)


def test_a_checksum_tells_states_apart():
    config = config_of()
    sums = {absorbed(config, blocks, seed=s)[1].checksum(0) for blocks in (1, 5) for s in (0, 1)}
    assert len(sums) == 4


def test_inspection_shows_what_each_head_keeps():
    config = config_of(("gdn", "lte"))
    tokens = torch.randint(1, 512, (1, 240))
    model = random_model(config, 3)
    slots = StateSlots.allocate(config, 1)
    model.absorb(tokens, [slots.view(0)])
    kept = slots.retained(0)
    assert [(r.layer, r.head) for r in kept] == [(1, 0), (1, 1)]
    for row, budget in zip(kept, (9, 6), strict=True):
        assert 4 < len(row.positions) <= budget
        assert row.positions[:4] == [0, 1, 2, 3]
        assert row.token_ids == tokens[0, row.positions].tolist()
        assert all(logit > 0 for logit in row.logits[4:])


def test_views_name_slots_that_exist():
    slots = StateSlots.allocate(config_of(), 2)
    assert slots.view(0, 2).lanes == 2
    for first, last in [(2, 3), (0, 3), (-1, 1), (1, 1)]:
        with pytest.raises(StateError, match="slot"):
            slots.view(first, last)


# Each of these makes one array of a good state wrong. Offsets: 88 tokens, window 20, so 68 decided.
LTE = "layers.1.lte."
FLOATS = [
    "layers.0.gdn.recurrent",
    "layers.0.gdn.tail",
    LTE + "window_key",
    LTE + "window_value",
    LTE + "pending_logit",
    LTE + "retained_key",
    LTE + "retained_value",
    LTE + "retained_logit",
    "layers.2.swa.key",
    "layers.2.swa.value",
    "layers.3.full.key.0",
    "layers.3.full.value.0",
]


def edit(name, change):
    """Return what applies `change` to the tensor that array `name` holds."""

    def apply(arrays):
        array = arrays[name]
        dtype = getattr(torch, array.dtype)
        tensor = torch.frombuffer(bytearray(array.data), dtype=dtype).view(array.shape)
        change(tensor)
        raw = tensor.flatten().view(torch.uint8).numpy().tobytes()
        arrays[name] = replace(array, data=raw)

    return apply


def put(index, value):
    def change(tensor):
        tensor.view(-1)[index] = value

    return change


def move(target, source):
    def change(tensor):
        tensor[target] = tensor[source].clone()

    return change


def swap_tokens(**changes):
    return lambda arrays: arrays.update(tokens=replace(arrays["tokens"], **changes))


POSITION, LOGIT, TOKEN = (LTE + f"retained_{x}" for x in ("position", "logit", "token"))

# (what is wrong, the array that the error names, what it says, how the arrays are spoilt)
CORRUPTIONS = [
    *(("nan", name, "not finite", edit(name, put(0, float("nan")))) for name in FLOATS),
    *(("infinity", name, "not finite", edit(name, put(-1, float("inf")))) for name in FLOATS),
    ("swapped", POSITION, "does not rise", edit(POSITION, move([5, 6], [6, 5]))),
    ("repeated", POSITION, "does not rise", edit(POSITION, move(5, 4))),
    ("still in the window", POSITION, "not left the window", edit(POSITION, put(8, 68))),
    ("below -1", POSITION, "unused rows", edit(POSITION, put(8, -2))),
    ("hole", POSITION, "unused rows", edit(POSITION, put(6, -1))),
    ("no sink", POSITION, "lacks one of the first 4", edit(POSITION, put(3, 4))),
    ("second head's sink", POSITION, "head 1 lacks", edit(POSITION, put(9 + 3, 4))),
    ("dropped", LOGIT, "dropped token", edit(LOGIT, put(5, -1.0))),
    ("too large", TOKEN, "token ids outside", edit(TOKEN, put(0, 512))),
    ("negative", TOKEN, "token ids outside", edit(TOKEN, put(0, -1))),
    ("recent too large", "tokens", "token ids outside", edit("tokens", put(0, 512))),
    ("no position", LTE + "retained_key", "unused rows", edit(POSITION, put(8, -1))),
    ("missing", "arrays", "missing", lambda arrays: arrays.pop("layers.2.swa.key")),
    ("unknown", "arrays", "unknown", lambda arrays: arrays.update(more=Array("int32", (), b""))),
    ("short", "tokens", "has 79 bytes, not 80", swap_tokens(data=bytes(79))),
    ("reshaped", "tokens", "has shape", swap_tokens(shape=(4, 5))),
    ("another dtype", "tokens", "is float32", swap_tokens(dtype="float32")),
]


@pytest.fixture(scope="module")
def good():
    config = config_of()
    model, slots = absorbed(config, 11, count=2)
    model.absorb(torch.full((1, 16), 9), [slots.view(1)])
    arrays = slots.to_arrays(0)
    full = [r for r in slots.retained(0) if len(r.positions) == config.layers[1].budgets[r.head]]
    assert len(full) == 2, "the corruptions below assume full buffers"
    return slots, arrays


@pytest.mark.parametrize(
    ("where", "says", "corrupt"),
    [case[1:] for case in CORRUPTIONS],
    ids=[f"{case[1]}: {case[0]}" for case in CORRUPTIONS],
)
def test_a_corrupt_state_is_refused_by_name_and_the_slot_stays(good, where, says, corrupt):
    slots, arrays = good
    bad = dict(arrays)
    corrupt(bad)
    before = slots.checksum(1)
    with pytest.raises(StateError, match=says) as refusal:
        slots.load_arrays(1, bad, 88)
    assert refusal.value.array == where
    assert slots.checksum(1) == before
    assert slots.offsets[1] == 16


@pytest.mark.parametrize("offset", [-8, 87, 89])
def test_an_offset_that_is_not_committed_is_refused(good, offset):
    slots, arrays = good
    with pytest.raises(StateError, match="offset"):
        slots.load_arrays(1, arrays, offset)


def test_an_offset_that_does_not_fit_the_arrays_is_refused():
    config = config_of(("gdn", "local_gdn", "lte", "swa"))
    _, slots = absorbed(config, 11)
    arrays = slots.to_arrays(0)
    for offset in (0, 8, 16):
        with pytest.raises(StateError):
            slots.load_arrays(0, arrays, offset)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        (LTE + "window_key", "before the start"),
        (LTE + "window_value", "before the start"),
        (LTE + "pending_logit", "before the start"),
        ("layers.2.swa.key", "before the start"),
        ("layers.2.swa.value", "before the start"),
        ("tokens", "before the start"),
    ],
)
def test_content_before_the_streams_start_is_refused(name, says):
    config = config_of()
    _, slots = absorbed(config, 1)
    arrays = slots.to_arrays(0)
    edit(name, lambda t: t.view(-1)[:1].fill_(1))(arrays)
    with pytest.raises(StateError, match=says) as refusal:
        slots.load_arrays(0, arrays, 8)
    assert refusal.value.array == name


def test_a_model_without_lte_keeps_no_token_ids():
    config = config_of(("gdn", "swa"))
    assert "tokens" not in absorbed(config, 3)[1].to_arrays(0)


def test_heads_without_a_budget_see_their_window_alone():
    base = config_of(("lte",))
    config = ModelConfig(**{**vars(base), "layers": (LTEConfig(window=20, budgets=(0, 0)),)})
    model, slots = absorbed(config, 8)
    assert slots.retained(0)[0].positions == []
    assert model.extend(torch.tensor([3]), slots.view(0)).isfinite().all()
    other = StateSlots.allocate(config, 1)
    slots.reset(0)
    other.load_arrays(0, slots.to_arrays(0), 0)
