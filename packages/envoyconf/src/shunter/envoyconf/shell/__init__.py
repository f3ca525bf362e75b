"""The half that touches the world: the real Envoy binary."""

__all__: list[str] = []
