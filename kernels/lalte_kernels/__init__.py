"""The operations that laLTE's layers are made of, each a pure function on tensors.

One folder an op: `reference.py` is the definition, in plain loops; `cpu.py` is what runs on CPUs;
both have one signature, and the folder's own function chooses between them. `lalte` imports this
package; it imports nothing of ours.
"""

from lalte_kernels.gated_delta_rule import RULE_CHUNK, gated_delta_rule
from lalte_kernels.null_attention import null_attention
from lalte_kernels.retained_update import retained_update
from lalte_kernels.retained_visibility import retained_visibility
from lalte_kernels.retention_score import Router, retention_score
from lalte_kernels.rope import bounded_positions, rope
from lalte_kernels.short_conv import short_conv
from lalte_kernels.sparse_attention import sparse_attention

# Raised by whoever changes what an op or a layer rounds: states of two revisions differ in bits.
ROUNDING_REVISION = 2

__all__ = [
    "ROUNDING_REVISION",
    "RULE_CHUNK",
    "Router",
    "bounded_positions",
    "gated_delta_rule",
    "null_attention",
    "retained_update",
    "retained_visibility",
    "retention_score",
    "rope",
    "short_conv",
    "sparse_attention",
]
