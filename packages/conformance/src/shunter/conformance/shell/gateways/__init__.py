"""Examining gateways."""

__all__: list[str] = []
