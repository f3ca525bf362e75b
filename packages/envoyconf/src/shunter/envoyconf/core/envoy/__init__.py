"""An intent as the resources of an Envoy, in protobuf's JSON form: one module a kind of resource or filter."""

__all__: list[str] = []
