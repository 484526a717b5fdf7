"""Layers over whole sequences from empty states, differentiable: what fitting a layer needs.

One sequence at a time; rows are its n tokens, n a multiple of the model's chunk. Windows and
branches are computed block by block with the blocks as a batch, which is how a state is advanced.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from lalte.layers.attention import Attention
from lalte.layers.local_gdn import LocalGDN
from lalte_kernels import null_attention, rope, sparse_attention

if TYPE_CHECKING:
    from collections.abc import Callable

    from lalte.model import Block

Inputs = tuple[torch.Tensor, ...]
Attending = Attention[Any] | LocalGDN


def attending(block: Block) -> Attending:
    """Return a block's mixer, which must hold the projections of attention."""
    mixer = block.attn
    if not isinstance(mixer, Attention | LocalGDN):
        raise TypeError(f"attention is needed in every layer, not {type(mixer).__name__}")
    return mixer


def attention_inputs(block: Block, h: torch.Tensor) -> Inputs:
    """Return q, k and v, [n, features] each. h: [n, hidden], normed."""
    mixer = attending(block)
    return mixer.q_proj(h), mixer.k_proj(h), mixer.v_proj(h)


def full_attention(mixer: Attending, inputs: Inputs) -> torch.Tensor:
    """Causal attention to the whole sequence. inputs: q, k, v, .. as [n, features] each."""
    q, k, v = _heads(mixer, inputs)
    position = torch.arange(q.shape[1], device=q.device)
    q, k = rope(q, position, mixer.theta), rope(k, position, mixer.theta)
    mixed = functional.scaled_dot_product_attention(
        q[None], k[None], v[None], is_causal=True, enable_gqa=True
    )[0]
    return mixed.transpose(0, 1).flatten(1)


def window_attention(
    mixer: Attending,
    inputs: Inputs,
    window: int,
    null: torch.Tensor | None = None,
    sinks: int = 0,
    stand: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> torch.Tensor:
    """Attention to the last `window` tokens, a query's own included.

    null: [n, heads], the logit of one key more whose value is zero, or None for none. sinks: so
    many first tokens are visible besides. stand: where they are relative to a block's start ->
    where its queries find them; None for the same.
    """
    q, k, v = _heads(mixer, inputs)
    n, chunk, past = q.shape[1], mixer.chunk, window - 1
    position = torch.arange(n, device=q.device)
    starts = torch.arange(0, n, chunk, device=q.device)[:, None, None, None]
    blocks = (n // chunk, -1, -1, -1)
    first = (k[None, :, :sinks].expand(blocks), v[None, :, :sinks].expand(blocks))
    found = position[:sinks]
    if stand is not None:
        found = stand(found - starts[:, 0]) + starts[:, 0]
    q, k = rope(q, position, mixer.theta), rope(k, position, mixer.theta)
    kv_heads = k.shape[0]
    q = q.reshape(kv_heads, -1, n // chunk, chunk, q.shape[-1]).permute(2, 0, 1, 3, 4)
    k = torch.cat([rope(first[0], found, mixer.theta), _buffers(k, past, chunk)], 2)
    v = torch.cat([first[1], _buffers(v, past, chunk)], 2)
    row = torch.arange(past + chunk, device=q.device)
    own = torch.arange(chunk, device=q.device)[:, None] + past
    visible = (row <= own) & (row >= own - past) & (row >= past - starts)
    # A sink is seen from where the window has left it behind.
    left = torch.arange(sinks, device=q.device) < starts + own - 2 * past
    visible = torch.cat([left, visible], dim=-1)
    if null is None:
        mixed = sparse_attention(q, k, v, visible)
    else:
        logit = null.mT.reshape(kv_heads, -1, n // chunk, chunk).permute(2, 0, 1, 3)
        mixed = null_attention(q, k, v, visible, logit)
    rows: torch.Tensor = mixed.permute(0, 3, 1, 2, 4).reshape(n, -1)
    return rows


def local_attention(
    mixer: LocalGDN, inputs: Inputs, null: torch.Tensor | None = None
) -> torch.Tensor:
    """What a local GDN layer's sinks and window give. null: as in `window_attention`."""
    return window_attention(
        mixer, inputs, mixer.past + 1, null, sinks=mixer.sinks, stand=mixer.stand
    )


def old_mass(mixer: LocalGDN, inputs: Inputs) -> torch.Tensor:
    """Return log of the sum of e^score over keys between sinks and window: [heads, queries].

    For the queries from position sinks + window on, which have such keys.
    """
    window, sinks = mixer.past + 1, mixer.sinks
    q, k, _ = _heads(mixer, inputs)
    position = torch.arange(q.shape[1], device=q.device)
    q, k = rope(q, position, mixer.theta), rope(k, position, mixer.theta)
    keys = k.repeat_interleave(q.shape[0] // k.shape[0], dim=0)[:, sinks:-window]
    scores = (q[:, sinks + window :] @ keys.mT).float() * q.shape[-1] ** -0.5
    older = position[sinks:-window] <= position[sinks + window :, None] - window
    mass: torch.Tensor = scores.masked_fill(~older, float("-inf")).logsumexp(dim=-1)
    return mass


def branch(mixer: LocalGDN, inputs: Inputs) -> torch.Tensor:
    """What a local GDN layer mixes; its new parts may be fp32 in a bf16 model.

    inputs: what `project` gave for a whole sequence, [n, features] each.
    """
    taken, null = mixer.branch_inputs(tuple(x[None] for x in inputs))
    channels = taken[0].shape[-1]
    tail = inputs[0].new_zeros(1, mixer.q_conv1d.weight.shape[-1] - 1, channels)
    recurrent = mixer.A_log.new_zeros(1, mixer.heads, mixer.k_dim, mixer.v_dim)
    mixed = mixer.mix(taken, tail, recurrent)[0][0]
    local = local_attention(mixer, inputs, null[0].flatten(0, 1).mT)
    out: torch.Tensor = local + mixed
    return out


def _buffers(x: torch.Tensor, past: int, chunk: int) -> torch.Tensor:
    """[kv_heads, n, d] -> [blocks, kv_heads, past + C, d], zeros before the sequence."""
    padded = functional.pad(x, (0, 0, past, 0))
    return padded.unfold(1, past + chunk, chunk).permute(1, 0, 3, 2)


def _heads(mixer: Attending, inputs: Inputs) -> Inputs:
    """Return q [heads, n, d], k and v [kv_heads, n, d]."""
    return tuple(x.view(x.shape[0], -1, mixer.head_dim).transpose(0, 1) for x in inputs[:3])
