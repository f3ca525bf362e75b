"""A Kubernetes API as the place that says who exists."""

__all__: list[str] = []
