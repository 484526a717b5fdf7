"""The retention score of LTE: a small CNN over each KV head's keys and values."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lalte_kernels.dispatch import Op
from lalte_kernels.retention_score import cpu, reference
from lalte_kernels.retention_score.router import Router

if TYPE_CHECKING:
    import torch

__all__ = ["Router", "retention_score"]

OP = Op(
    "retention_score",
    reference.retention_score,
    cpu.retention_score,
    gpu=("triton",),
    portable=True,
)


def retention_score(
    k: torch.Tensor,
    v: torch.Tensor,
    router: Router,
    first_position: int,
    block: int | None = None,
) -> torch.Tensor:
    """Logits of the retention score r (arXiv 2510.20787); r > 0.5 is a logit above 0.

    k (before RoPE), v: [kv_heads, rows, head_dim] of consecutive tokens, the first at
    `first_position`. Rows before position 0 are the stream's zero padding: every layer's
    activation there is 0, whatever the rows hold. Computed in fp32 (fp64 for fp64 inputs).
    block: scores computed together, at one fixed shape, so that their bits do not depend on how
    many blocks are asked for; all of them where it is None.
    Returns [kv_heads, rows - 2 * reach]: a score reads `reach` rows on each side of its own.
    """
    return OP.run(k.device, k, v, router, first_position, block)
