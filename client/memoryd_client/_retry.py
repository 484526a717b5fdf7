"""When a failed call is tried again: exponential back-off with full jitter.

Source: M. Brooker, "Exponential Backoff And Jitter" (AWS Architecture Blog, 2015). A delay that
the daemon gives (`google.rpc.RetryInfo`) is a lower bound.
"""

import random
import time
from dataclasses import dataclass

from memoryd_client._errors import DeadlineExceeded, MemorydError


@dataclass(frozen=True)
class Retry:
    """How long idempotent calls are tried again.

    first: upper bound of the first pause in seconds; it doubles with each attempt.
    longest: upper bound of any pause that the daemon did not ask for.
    give_up_after: no attempt follows a failure that comes so many seconds after the first one
        without progress in between; 0 never tries again.
    """

    first: float = 0.1
    longest: float = 2.0
    give_up_after: float = 10.0


class Attempts:
    """The attempts of one call: the time left and the next pause."""

    def __init__(self, retry: Retry, timeout: float | None, *, idempotent: bool = True) -> None:
        self._retry = retry
        self._idempotent = idempotent
        self._timeout = timeout
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._failures = 0
        self._first_failure = 0.0

    @property
    def failed_before(self) -> bool:
        """An earlier attempt failed, and may have been applied all the same."""
        return self._failures > 0

    def time_left(self) -> float | None:
        """Seconds until the overall deadline, never negative; None is no deadline."""
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def progress(self) -> None:
        """Something new arrived: the next failure is the first again."""
        self._failures = 0

    def pause_after(self, error: MemorydError) -> float:
        """Seconds to wait before the next attempt.

        Raises `error` where another attempt is not allowed or cannot come in time.
        """
        now = time.monotonic()
        if not self._failures:
            self._first_failure = now
        if isinstance(error, DeadlineExceeded) or not (self._idempotent and error.retryable):
            raise error
        # 64 doublings outgrow any longest pause, and a float would overflow some time later.
        doubled = self._retry.first * 2.0 ** min(self._failures, 64)
        bound = min(self._retry.longest, doubled)
        # Jitter spreads clients that were cut off together; it needs no secrecy.
        pause = random.uniform(bound / 2, bound)  # noqa: S311
        if error.retry_after is not None:
            pause = error.retry_after + pause - bound / 2
        self._failures += 1
        if now - self._first_failure >= self._retry.give_up_after:
            raise error
        if self._deadline is not None and now + pause >= self._deadline:
            raise error
        return pause
