"""How fast a teacher may be asked: starts of requests, booked ahead."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

MINUTE = 60.0


class RateLimit:
    """Books when each request may start, so that no minute holds more requests or tokens than agreed.

    Requests are spaced evenly, because endpoints that count by the second refuse bursts. Tokens are counted
    over every window of a minute. Safe to share between threads; it never sleeps itself.

    Parameters
    ----------
    requests_per_minute, tokens_per_minute
        None: no limit.
    clock
        Returns seconds that never go back.
    """

    def __init__(
        self,
        requests_per_minute: float | None,
        tokens_per_minute: int | None,
        clock: Callable[[], float],
    ) -> None:
        self._spacing = MINUTE / requests_per_minute if requests_per_minute else 0.0
        self._limit = tokens_per_minute
        self._clock = clock
        self._next = clock()
        self._booked: deque[tuple[float, int]] = deque()  # (start, tokens), the oldest first
        self._sum = 0
        self._lock = threading.Lock()

    def reserve(self, tokens: int) -> float:
        """Book the next start for a request of that many tokens; return the seconds until then.

        A request larger than `tokens_per_minute` starts when nothing else was booked for a minute; callers
        refuse it beforehand (`Teacher.estimate`).
        """
        with self._lock:
            now = self._clock()
            start = max(now, self._next)
            if self._limit is not None:
                while self._booked and self._sum + tokens > self._limit:
                    earlier, freed = self._booked.popleft()
                    self._sum -= freed
                    start = max(start, earlier + MINUTE)
                self._booked.append((start, tokens))
                self._sum += tokens
            self._next = start + self._spacing
            return start - now

    def hold(self, seconds: float) -> None:
        """Start nothing that is not booked yet for that long, because the endpoint asked for a pause."""
        with self._lock:
            self._next = max(self._next, self._clock() + seconds)
