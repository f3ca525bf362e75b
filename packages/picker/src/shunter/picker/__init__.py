"""The endpoint picker: Envoy asks over ext_proc, the picker names the model server that should take the request."""

__all__: list[str] = []
