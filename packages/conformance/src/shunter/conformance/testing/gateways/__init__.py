"""Gateways in process: `fake.FakeGateway`, `faults.BROKEN`."""

__all__: list[str] = []
