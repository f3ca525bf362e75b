"""The senses: cluster state and model-server metrics become snapshots."""

__all__: list[str] = []
