"""Histograms, and the upper bounds of each: the reference picker's, so that its dashboards fit."""

from collections.abc import Sequence

import msgspec

__all__ = [
    "CACHED_TOKENS",
    "COMPLETION_TOKENS",
    "DURATION_S",
    "HIT_BYTES",
    "HIT_RATIO",
    "NTPOT_S",
    "PROCESSING_S",
    "PROMPT_TOKENS",
    "REQUEST_BYTES",
    "RESPONSE_BYTES",
    "SCHEDULER_S",
    "TPOT_S",
    "TTFT_S",
    "WAITS_S",
    "Histogram",
]

DURATION_S = (
    *(0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1, 1.25, 1.5, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 45, 60, 120),
    *(180, 240, 300, 360, 480, 600, 900, 1200, 1800, 2700, 3600),
)
TTFT_S = DURATION_S[: DURATION_S.index(120) + 1]
TPOT_S = (
    *(0.0005, 0.00205, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.125, 0.15),
    *(0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1, 2),
)
NTPOT_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
COMPLETION_TOKENS = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
PROMPT_TOKENS = (*COMPLETION_TOKENS, 16384, 32778, 65536, 131072, 262144, 524288, 1048576)  # 32778 is the reference's own
CACHED_TOKENS = PROMPT_TOKENS
REQUEST_BYTES = tuple(64 << power for power in range(25))
RESPONSE_BYTES = (*COMPLETION_TOKENS, 16384, 32778, 65536)
SCHEDULER_S = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1)
PROCESSING_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.015, 0.025, 0.04, 0.06, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
WAITS_S = (0.0001, 0.0005, 0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
HIT_RATIO = tuple(tenth / 10 for tenth in range(11))
HIT_BYTES = (0, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536)


class Histogram(msgspec.Struct):
    """Counts by bucket, the last one for what is above all bounds; and the sum of all values."""

    counts: list[int]
    total: float = 0.0

    @classmethod
    def of(cls, bounds: Sequence[float]) -> "Histogram":
        """Return an empty one."""
        return cls([0] * (len(bounds) + 1))

    def plus(self, other: "Histogram") -> "Histogram":
        """Return the sum of both."""
        counts = [mine + theirs for mine, theirs in zip(self.counts, other.counts, strict=True)]
        return Histogram(counts, self.total + other.total)
