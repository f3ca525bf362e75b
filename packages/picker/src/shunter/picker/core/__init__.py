"""The judgement itself, pure: fed values, returns values; the clock and the dice are arguments."""

__all__: list[str] = []
