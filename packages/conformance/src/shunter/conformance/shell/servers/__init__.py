"""Examining model servers: the look around before, and the exam."""

__all__: list[str] = []
