"""Rules about Kubernetes objects: pools, routes, policies, and what each gateway makes of them."""

__all__: list[str] = []
