"""Examining endpoint pickers."""

__all__: list[str] = []
