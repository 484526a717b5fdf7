"""The one table of what a tenant is told that has used up one of its limits."""

from memoryd.errors import QuotaExceeded

SENTENCES = {
    "sessions": (
        "{used} of {limit} sessions exist: delete one, or have the operator raise the limit"
    ),
    "stored_bytes": (
        "{used} of {limit} bytes are stored: delete sessions or snapshots, or have the operator "
        "raise the limit"
    ),
    "tokens_per_minute": (
        "{used} of {limit} tokens a minute are used up: retry after the delay given"
    ),
    "concurrent_queries": (
        "{used} of {limit} replies are being written at the same time: retry when one has ended"
    ),
}
"""By the name of the limit, see `memoryd.storage.tenants.Quota`."""


def refusal(
    quota: str, *, used: int, limit: int, retry_after: float | None = None
) -> QuotaExceeded:
    """Facts: quota, limit, used. retry_after: seconds, where waiting helps."""
    return QuotaExceeded(
        SENTENCES[quota].format(used=used, limit=limit),
        retry_after=retry_after,
        quota=quota,
        limit=limit,
        used=used,
    )
