"""Where retained keys are said to stand, so that no distance exceeds what the model was trained on.

Absolute positions of tokens retained from long ago give distances that the model never saw.
Packing the retained tokens, in order, to within `span` of the block keeps order and bounds
distance, and equals absolute positions for as long as the stream is no longer than `span`.
"""

from __future__ import annotations

import torch


def bounded_positions(position: torch.Tensor, start: int, span: int) -> torch.Tensor:
    """u_r = max(p_r, start - span + r) for the r-th oldest retained token of each head.

    position: int64 [heads, rows], rising along rows; unused rows (position -1) come last and get
    a value that means nothing. start: t, the first position of the block. Returns [heads, rows].
    """
    rank = torch.arange(position.shape[-1], dtype=torch.int64, device=position.device)
    return torch.maximum(position, rank + (start - span))
