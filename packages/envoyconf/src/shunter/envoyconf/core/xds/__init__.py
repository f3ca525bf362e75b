"""The xDS transport protocol without IO: what a control plane owes each Envoy, and when."""

__all__: list[str] = []
