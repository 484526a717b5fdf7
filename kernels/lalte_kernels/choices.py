"""What runs each op on a kind of device, all of them together."""

from __future__ import annotations

from lalte_kernels.dispatch import Choice
from lalte_kernels.gated_delta_rule import OP as GATED_DELTA_RULE
from lalte_kernels.nsa import OP as NSA
from lalte_kernels.null_attention import OP as NULL_ATTENTION
from lalte_kernels.retained_update import OP as RETAINED_UPDATE
from lalte_kernels.retained_visibility import OP as RETAINED_VISIBILITY
from lalte_kernels.retention_score import OP as RETENTION_SCORE
from lalte_kernels.rope import OP as ROPE
from lalte_kernels.short_conv import OP as SHORT_CONV
from lalte_kernels.sparse_attention import OP as SPARSE_ATTENTION


def choices(device_type: str) -> list[Choice]:
    """Return the choice for every op on devices of this type ("cpu", "cuda", ...)."""
    ops = (
        GATED_DELTA_RULE,
        SHORT_CONV,
        SPARSE_ATTENTION,
        NULL_ATTENTION,
        NSA,
        RETAINED_UPDATE,
        RETAINED_VISIBILITY,
        RETENTION_SCORE,
        ROPE,
    )
    return [op.choice(device_type) for op in ops]
