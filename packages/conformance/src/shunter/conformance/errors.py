"""Everything that can go wrong in an exam, as one small tree.

    ConformanceError
    ├── UsageError     the examiner asked for something impossible (exit code 2)
    ├── LaunchError    a server that the exam was to start does not come up (exit code 3)
    ├── FormatError    bytes of the target break the rules of their format
    ├── Unanswered     a request got no complete answer: reset, too slow, too large
    │   └── Refused    nobody accepted its connection
    ├── Mismatch       the finding of a case: this was expected, that was seen
    └── Skip           a case cannot be judged on this target
        └── Disturbed      nor on this try: the machine did something else
            └── TooShort   what was to be looked at was over meanwhile

Only `UsageError` and `LaunchError` ever leave an exam; the others become verdicts.
"""

__all__ = [
    "ConformanceError",
    "Disturbed",
    "FormatError",
    "LaunchError",
    "Mismatch",
    "Refused",
    "Skip",
    "TooShort",
    "Unanswered",
    "UsageError",
]


class ConformanceError(Exception):
    """Root of the tree."""


class UsageError(ConformanceError):
    """A wish that cannot be fulfilled; the message names the value and the remedy."""


class LaunchError(ConformanceError):
    """A server that does not come up; the message ends with what it said last."""


class FormatError(ConformanceError):
    """Bytes that break their format; `problems` are lines of prose, each naming its place."""

    def __init__(self, *problems: str) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


class Unanswered(ConformanceError):  # noqa: N818 – a fact about an exchange, not a fault of ours
    """No complete answer came back; the message says how far the exchange got."""


class Refused(Unanswered):
    """No connection was accepted: whoever asked may safely ask somebody else."""


class Mismatch(ConformanceError):  # noqa: N818 – the word of the domain
    """A requirement is not met."""

    def __init__(self, expected: str, actual: str) -> None:
        super().__init__(f"expected {expected}; actual: {actual}")
        self.expected = expected
        self.actual = actual


class Skip(ConformanceError):  # noqa: N818 – a decision, not a fault
    """The case cannot be judged here; the message is the reason a reader of the report sees."""


class Disturbed(Skip):
    """What was measured decides nothing this time."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"{reason}; examine it on a machine that is less busy")


class TooShort(Disturbed):
    """Requests that were to last did not: the target is faster than when its pace was measured, or the examiner slower."""

    def __init__(self) -> None:
        super().__init__("the requests ended before they could be looked at often enough")
