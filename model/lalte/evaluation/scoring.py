"""Shares of right answers with what is known of them."""

from __future__ import annotations

import math

_Z = 1.96  # of a normal distribution, at 95 %


def wilson(right: int, samples: int) -> tuple[float, float]:
    """Wilson's interval at 95 % for a share of `samples` >= 1 (Wilson 1927)."""
    share = right / samples
    centre = share + _Z * _Z / (2 * samples)
    spread = _Z * math.sqrt(share * (1 - share) / samples + _Z * _Z / (4 * samples * samples))
    scale = 1 + _Z * _Z / samples
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)
