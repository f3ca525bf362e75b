"""The pure half: an intent goes in, Envoy resources come out."""

__all__: list[str] = []
