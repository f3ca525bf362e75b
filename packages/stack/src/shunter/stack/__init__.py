"""The whole of Shunter on one machine, and the umbrella command."""

__all__: list[str] = []
