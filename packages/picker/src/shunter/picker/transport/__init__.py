"""Bytes to events and replies to bytes: the ends of the picker that speak with the proxy."""

__all__: list[str] = []
