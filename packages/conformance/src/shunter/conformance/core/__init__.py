"""The pure half of the exam: cases, profiles, events, verdicts and reports as values."""

__all__: list[str] = []
