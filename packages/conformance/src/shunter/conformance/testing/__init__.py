"""Doubles for tests of the exam itself: pickers that are right, and pickers that are wrong in one way each."""

__all__: list[str] = []
