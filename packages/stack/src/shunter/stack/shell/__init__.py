"""Processes, sockets and the terminal."""

__all__: list[str] = []
