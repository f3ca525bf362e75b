"""What is decided about adapters and traffic without looking: pure functions; the clock is an argument."""

__all__: list[str] = []
