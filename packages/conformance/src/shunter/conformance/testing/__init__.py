"""Doubles for tests of the exam itself: pickers and gateways that are right, and some that are wrong in one way each."""

__all__: list[str] = []
