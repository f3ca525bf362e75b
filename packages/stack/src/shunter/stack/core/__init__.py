"""What to start and what to show, as functions of values."""

__all__: list[str] = []
