"""The pure half: an engine that is told the time, and the dialect as functions from bytes to values and back."""

__all__: list[str] = []
