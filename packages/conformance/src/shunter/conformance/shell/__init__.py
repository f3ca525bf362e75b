"""The half of the exam that talks: the HTTP client and the engine that runs the cases."""

__all__: list[str] = []
