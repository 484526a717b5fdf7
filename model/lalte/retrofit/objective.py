"""What a router should foresee, and the two losses that make it.

Regression: the score of token j in head h is the logarithm of the largest attention that it will
draw from afar. That orders ordinary tokens well, but not the few in a thousand that compete for
slots on a long stream. Ranking: a fact's tokens must stand above the threshold that a long stream
of ordinary text would set. The threshold of N tokens and B slots is bounded by a soft maximum,

    Z = 1/beta log( N/B mean exp(beta s) )   over the scores s of ordinary tokens,

so that its gradient falls on the highest of them. The mean runs over many steps (as in
SogCLR, arXiv 2202.12387): one stream shows too few of the tokens that a long one would hold.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch.nn import functional

from lalte.retrofit.data import NO_FACT

if TYPE_CHECKING:
    from lalte.retrofit.harvest import Shard

FLOOR = 1e-4  # attention below this is all the same
MARGIN = 1.0


class Targets(NamedTuple):
    """What one stream teaches, per head and token: [heads, n] fp32.

    score: regression target. weight: of its squared error. wanted: how much a fact's token is
    attended to when it is asked for. ordinary: how far a token is a negative, 0 to 1.
    """

    score: torch.Tensor
    weight: torch.Tensor
    wanted: torch.Tensor
    ordinary: torch.Tensor


def make_targets(shard: Shard, sinks: int, whole_value: float, digits: torch.Tensor) -> Targets:
    """Derive the targets of a stream.

    whole_value: each token of a value is wanted at least this share as much as the value's most
    wanted one. digits: bool [vocab], tokens that contain a digit; in ordinary text they are no
    negatives, for somebody might ask for them.
    """
    asked, general = shard.asked.flatten(0, 1), shard.general.flatten(0, 1)
    tells = shard.fact != NO_FACT
    wanted = asked * tells
    for fact in torch.unique(shard.fact[tells & shard.value]):
        rows = (shard.fact == fact) & shard.value
        best = wanted[:, rows].amax(dim=1, keepdim=True)
        wanted[:, rows] = torch.maximum(wanted[:, rows], whole_value * best)
    drawn = torch.maximum(wanted, general)
    ordinary = (~tells & ~digits[shard.tokens.long()]).float() * (1 - general)
    ordinary[:, :sinks] = 0
    return Targets((FLOOR + drawn).log(), 0.1 + drawn.sqrt(), wanted, ordinary)


def regression_loss(scores: torch.Tensor, targets: Targets) -> torch.Tensor:
    """Weighted squared error, mean over heads and tokens."""
    error = (scores - targets.score).square() * targets.weight
    return error.sum() / targets.weight.sum()


class ThresholdBank:
    """The running mean of exp(beta s) over ordinary tokens, per head, as its logarithm [heads]."""

    def __init__(self, decay: float, sharpness: float, ratio: torch.Tensor) -> None:
        """`ratio`: N / B per head, ordinary tokens per slot, [heads]."""
        self.log_mean = torch.full(ratio.shape, float("-inf"))
        self._decay = decay
        self._sharpness = sharpness
        self._log_ratio = ratio.log()

    def threshold(self, scores: torch.Tensor, ordinary: torch.Tensor) -> torch.Tensor:
        """Take in one stream's scores [heads, n]; return Z [heads].

        Its gradient is that of the running mean, undiminished by the decay.
        """
        beta = self._sharpness
        log_sum = (beta * scores + ordinary.clamp_min(1e-9).log()).logsumexp(dim=1)
        log_now = log_sum - ordinary.sum(dim=1).clamp_min(1).log()
        now = log_now.detach()
        mixed = torch.logaddexp(
            self.log_mean + torch.tensor(self._decay).log(),
            now + torch.tensor(1 - self._decay).log(),
        )
        self.log_mean = torch.where(self.log_mean.isinf(), now, mixed)
        through = (log_now - self.log_mean).exp()
        return (self.log_mean + through - through.detach() + self._log_ratio) / beta


def ranking_loss(scores: torch.Tensor, targets: Targets, threshold: torch.Tensor) -> torch.Tensor:
    """Softplus of how far wanted tokens fall short of the threshold, weighted by the wanting.

    Heads that attend to facts little (less than about one token's worth) count little.
    """
    short = functional.softplus(threshold[:, None] + MARGIN - scores)
    per_head = (targets.wanted * short).sum(dim=1) / (targets.wanted.sum(dim=1) + 1)
    return per_head.mean()
