"""The half that acts: a clock, a port, and the metrics page."""

__all__: list[str] = []
