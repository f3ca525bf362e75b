"""What goes wrong in gateways before models, as rules over anybody's Envoy bootstraps and Kubernetes manifests."""

__all__: list[str] = []
