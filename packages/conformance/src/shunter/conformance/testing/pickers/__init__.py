"""Pickers in process: `fake.FakePicker`, `faults.FAULTS`."""

__all__: list[str] = []
