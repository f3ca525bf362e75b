"""Sockets, clocks, signals and processes around the judgement."""

__all__: list[str] = []
