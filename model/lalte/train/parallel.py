"""The model over whole sequences at once: differentiable, and with the model's own parameters.

Serving goes through states, block by block; training reads a batch of whole sequences from empty
states and needs gradients. Both use the same projections, routers and kernels. Two things differ,
as in the paper: a head keeps every token whose score is above one half, however many there are
(the L1 penalty brings that number to the budget), and positions are absolute, for a sequence is
never longer than the trained length.

Glossary:
    r         retention score in (0, 1), the sigmoid of the router's logit
    visible   Z = { j <= i : j < s  or  r_j > 0.5  or  j >= t - w }; t = i, or with eviction grid
              "chunk" the start of the block of i
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional

from lalte.config import LTEConfig, ModelConfig
from lalte.layers.attention import Attention
from lalte.layers.full import FullAttention
from lalte.layers.gdn import GatedDeltaNet
from lalte.layers.lte import LTEAttention
from lalte.layers.nsa import NativeSparseAttention
from lalte.layers.swa import SlidingWindowAttention
from lalte.train.penalty import scored
from lalte.train.tasks import IGNORED
from lalte_kernels import Router, rope
from lalte_kernels.nsa import nsa, pool_blocks

if TYPE_CHECKING:
    from lalte.layers.mixer import Mixer
    from lalte.model import LaLTE


# (router, k, v, dropout) -> logits, as `router_logits`; (configs, logits) -> `kept_visible`.
Score = Callable[[Router, torch.Tensor, torch.Tensor, float], torch.Tensor]
Visible = Callable[[ModelConfig, LTEConfig, torch.Tensor], torch.Tensor]
Mix = Callable[[tuple[torch.Tensor, ...]], torch.Tensor]


class Losses(NamedTuple):
    """What one batch gives.

    total: sum of the cross entropy over targets that count. penalty: mean over batch, `scored`
    tokens, LTE layers and heads of strength * `excess`; zero without LTE. share: [LTE layers, KV
    heads], the part of scored tokens with r > 0.5; no gradient.
    """

    total: torch.Tensor
    penalty: torch.Tensor
    share: torch.Tensor


class ParallelModel(nn.Module):
    """A LaLTE as a function of whole sequences. dropout: inside routers, in training mode.

    score and visible are what an ablation replaces: how routers score (`router_logits`) and
    which keys an LTE layer's queries see (`kept_visible`).
    """

    def __init__(
        self,
        lm: LaLTE,
        dropout: float = 0.0,
        *,
        score: Score | None = None,
        visible: Visible | None = None,
    ) -> None:
        super().__init__()
        self.lm = lm
        self.dropout = dropout
        self._score = score or router_logits
        self._visible = visible or kept_visible

    def forward(
        self, tokens: torch.Tensor, targets: torch.Tensor, strength: torch.Tensor
    ) -> Losses:
        """tokens, targets: int64 [batch, n]; strength: fp32 [LTE layers, KV heads]."""
        logits, scores = self._run(tokens)
        total = functional.cross_entropy(
            logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORED, reduction="sum"
        )
        if not scores:
            return Losses(total, total.new_zeros(()), torch.zeros_like(strength))
        r = torch.stack(scores, dim=1).sigmoid()  # [batch, LTE layers, heads, n]
        # The last few scores see zeros where tokens were to come: a stream never meets them.
        r = r[..., : scored(self.lm.config, tokens.shape[1])]
        penalty = (strength[None, :, :, None] * excess(r)).mean()
        return Losses(total, penalty, (r > 0.5).float().mean(dim=(0, 3)))

    def logits(self, tokens: torch.Tensor) -> torch.Tensor:
        """tokens: int64 [batch, n] -> [batch, n, vocab]."""
        return self._run(tokens)[0]

    def _mix_lte(
        self,
        mixer: LTEAttention,
        config: LTEConfig,
        scores: list[torch.Tensor],
        inputs: tuple[torch.Tensor, ...],
    ) -> torch.Tensor:
        """Attend to what is recent or kept; the router's logits go to `scores`."""
        k, v = (_per_head(x, mixer.head_dim) for x in inputs[1:])
        dropout = self.dropout if self.training else 0.0
        logits = self._score(mixer.router.weights(), k, v, dropout)
        scores.append(logits)
        visible = self._visible(self.lm.config, config, logits)
        return _attend(mixer, inputs[0], k, straight_through(v, logits.sigmoid()), visible)

    def _run(self, tokens: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Logits, and each LTE layer's router logits [batch, KV heads, n]."""
        lm, (batch, n) = self.lm, tokens.shape
        scores: list[torch.Tensor] = []
        x = lm.model.embeddings(tokens.flatten())
        for config, block in zip(lm.config.layers, lm.blocks(), strict=True):
            if isinstance(config, LTEConfig) and isinstance(block.attn, LTEAttention):
                mix = partial(self._mix_lte, block.attn, config, scores)
            else:
                mix = partial(_mix, block.attn)
            x = block(x, partial(_by_sequence, mix, batch))
        weight = lm.model.embeddings.weight if lm.config.tie_embeddings else lm.lm_head.weight
        logits = functional.linear(lm.model.norm(x), weight)
        return logits.view(batch, n, -1), scores


def _by_sequence(mix: Mix, batch: int, inputs: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """Take rows of all sequences, [batch * n, features], through `mix`, [batch, n, features]."""
    return mix(tuple(x.view(batch, -1, x.shape[-1]) for x in inputs)).flatten(0, 1)


def _mix(mixer: Mixer[Any], inputs: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """Take whole sequences, [batch, n, features] each, through a mixer without a router."""
    if isinstance(mixer, GatedDeltaNet):
        return _mix_gdn(mixer, inputs)
    if isinstance(mixer, NativeSparseAttention):
        return _mix_nsa(mixer, inputs)
    if isinstance(mixer, FullAttention | SlidingWindowAttention):
        k, v = (_per_head(x, mixer.head_dim) for x in inputs[1:])
        n = k.shape[2]
        reach = mixer.past if isinstance(mixer, SlidingWindowAttention) else n
        return _attend(mixer, inputs[0], k, v, recent(n, reach, k.device)[None, None])
    raise NotImplementedError(f"{type(mixer).__name__} has no form over whole sequences")


def _mix_gdn(mixer: GatedDeltaNet, inputs: tuple[torch.Tensor, ...]) -> torch.Tensor:
    qkv = inputs[0]
    kernel = mixer.q_conv1d.weight.shape[-1]
    tail = qkv.new_zeros(qkv.shape[0], kernel - 1, qkv.shape[-1])
    recurrent = torch.zeros(
        qkv.shape[0], mixer.heads, mixer.k_dim, mixer.v_dim, dtype=torch.float32, device=qkv.device
    )
    # The recurrence sums over the whole sequence, so its products stay fp32.
    with torch.autocast(qkv.device.type, enabled=False):
        return mixer.mix(inputs, tail, recurrent)[0]


def _mix_nsa(mixer: NativeSparseAttention, inputs: tuple[torch.Tensor, ...]) -> torch.Tensor:
    batch, n = inputs[0].shape[:2]
    position = torch.arange(n, device=inputs[0].device).expand(batch, n)
    q, k, v, gates = mixer.split(inputs, position)
    size = mixer.sparsity.block_size
    # Blocks are chosen by their scores, which lower precision would tie.
    with torch.autocast(q.device.type, enabled=False):
        mixed = nsa(
            q,
            k,
            v,
            pool_blocks(k, size),
            pool_blocks(v, size),
            gates,
            position[:, 0],
            mixer.sparsity,
        )
    return mixed.permute(0, 3, 1, 2, 4).reshape(batch, n, -1)


def _per_head(x: torch.Tensor, head_dim: int) -> torch.Tensor:
    """[batch, n, heads * d] -> [batch, heads, n, d]."""
    return x.view(*x.shape[:2], -1, head_dim).transpose(1, 2)


def _attend(
    mixer: Attention[Any],
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    visible: torch.Tensor,
) -> torch.Tensor:
    """q: [batch, n, heads * d]; k, v: [batch, KV heads, n, d]; visible broadcasts to them."""
    batch, kv_heads, n, d = k.shape
    position = torch.arange(n, device=k.device)
    q = rope(_per_head(q, d), position, mixer.theta)
    k = rope(k, position, mixer.theta)
    # One KV head at a time stands in the batch dimension: its queries share its keys and mask.
    grouped = q.reshape(batch * kv_heads, -1, n, d)
    shape = grouped.shape
    mask = visible.expand(batch, kv_heads, n, n).reshape(batch * kv_heads, 1, n, n)
    mixed = functional.scaled_dot_product_attention(
        grouped,
        k.reshape(batch * kv_heads, 1, n, d).expand(shape),
        v.reshape(batch * kv_heads, 1, n, d).expand(shape),
        attn_mask=mask,
    )
    return mixed.reshape(batch, -1, n, d).transpose(1, 2).flatten(2)


def recent(n: int, reach: int, device: torch.device, grid: int = 1) -> torch.Tensor:
    """Query i sees j with t - reach <= j <= i, t the start of i's cell of `grid`: bool [n, n]."""
    j = torch.arange(n, device=device)
    i = j[:, None]
    return (j <= i) & (j >= i - i % grid - reach)


def kept_visible(
    model_config: ModelConfig, config: LTEConfig, logits: torch.Tensor
) -> torch.Tensor:
    """Z of the module's text, budgets aside: bool [batch, KV heads, n, n] of logits [.., n]."""
    n = logits.shape[-1]
    grid = model_config.chunk if model_config.eviction_grid == "chunk" else 1
    seen = recent(n, config.window, logits.device, grid)
    kept = (logits > 0) | (torch.arange(n, device=logits.device) < config.sinks)
    return seen | (recent(n, n, logits.device) & kept[:, :, None, :])


def excess(r: torch.Tensor) -> torch.Tensor:
    """What a score r costs: as much as it is above one half; what is dropped is free."""
    return (r - 0.5).relu()


def router_logits(router: Router, k: torch.Tensor, v: torch.Tensor, dropout: float) -> torch.Tensor:
    """What `lalte_kernels.retention_score` gives, over batches and with dropout.

    k (before RoPE), v: [batch, KV heads, n, d]. Returns fp32 [batch, KV heads, n]. The last
    tokens' scores see zeros ahead; those tokens are inside every query's window.
    """
    batch, heads, n, _ = k.shape
    with torch.autocast(k.device.type, enabled=False):
        x = torch.cat([k, v], dim=-1).float().mT.reshape(batch, -1, n)
        for weight, bias in zip(router.conv_weights, router.conv_biases, strict=True):
            reach = (weight.shape[3] - 1) * router.dilation // 2
            x = functional.dropout(x, dropout) if dropout else x
            x = functional.conv1d(
                x,
                weight.float().squeeze(2),
                bias.float(),
                padding=reach,
                dilation=router.dilation,
                groups=heads,
            )
            x = functional.silu(x)
        weight, bias = router.proj_weight.float(), router.proj_bias.float()
        logits = weight.view(heads, 1, -1) @ x.view(batch, heads, -1, n)
        return logits[:, :, 0] + bias[:, None]


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, v: torch.Tensor, r: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(v, r)
        return v.view_as(v)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        v, r = ctx.saved_tensors
        (gradient,) = gradients
        return gradient, (gradient * v).sum(dim=-1).to(r.dtype)


def straight_through(v: torch.Tensor, r: torch.Tensor) -> torch.Tensor:
    """Give v unchanged; its gradient also reaches r as if v had been multiplied with it.

    v: [..., n, d]; r: [..., n]. d loss / d r = sum over channels of (d loss / d v) * v.
    """
    out: torch.Tensor = _StraightThrough.apply(v, r)  # type: ignore[no-untyped-call]
    return out
