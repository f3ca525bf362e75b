"""Adapters and versions: sync, readiness-gated traffic shifting, rollback."""

__all__: list[str] = []
