"""Kubernetes: manifests become an intent, and an intent becomes the manifests of each gateway."""

__all__: list[str] = []
