"""A plan: steps of an engine that differ only in how long contexts have grown, with the times at which they end.

Every step of a plan reads as many tokens more than the one before as there are sequences that decode, and takes `bend_s` longer
for it. So the n-th one ends n·pace + bend·n(n − 1)/2 after the beginning of the plan, and no step needs to be taken by itself.
Times are always computed from the plan's beginning: whoever looks in between sees the same times to the last bit.
"""

from math import sqrt

import msgspec

__all__ = ["Plan"]


class Plan(msgspec.Struct, gc=False):
    """Steps are numbered over the life of an engine."""

    begins_s: float
    step: int
    """How many had ended before."""
    until: int
    """The step with which the plan ends."""
    pace_s: float
    bend_s: float
    until_s: float = 0.0

    def __post_init__(self) -> None:
        self.until_s = self.ends_s(self.until)

    def ends_s(self, step: int) -> float:
        """When a step of the plan ends."""
        n = step - self.step
        return self.begins_s + n * self.pace_s + self.bend_s * (n * (n - 1) // 2)

    def cut(self, step: int) -> None:
        """End with an earlier step."""
        self.until = step
        self.until_s = self.ends_s(step)

    def ended(self, now_s: float) -> int:
        """The last step that has ended by now, the last one of the plan aside."""
        begins_s, pace_s, bend_s, most = self.begins_s, self.pace_s, self.bend_s, self.until - self.step - 1
        elapsed_s, n = now_s - begins_s, 0
        if elapsed_s >= pace_s:
            # n·pace + bend·n(n−1)/2 = elapsed. What rounding does to the root is put right below, by what `ends_s` says.
            slope_s = pace_s - bend_s / 2
            n = min(most, int(2 * elapsed_s / (slope_s + sqrt(slope_s * slope_s + 2 * bend_s * elapsed_s))))
        while n > 0 and begins_s + n * pace_s + bend_s * (n * (n - 1) // 2) > now_s:
            n -= 1
        while n < most and begins_s + (n + 1) * pace_s + bend_s * ((n + 1) * n // 2) <= now_s:
            n += 1
        return self.step + n
