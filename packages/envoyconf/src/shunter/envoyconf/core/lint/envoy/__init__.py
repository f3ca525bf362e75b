"""The rules for Envoy's own configuration, and the view of it that they share."""

__all__: list[str] = []
