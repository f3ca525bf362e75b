"""The half that touches the world: files, the real Envoy binary, and the control plane's server."""

__all__: list[str] = []
