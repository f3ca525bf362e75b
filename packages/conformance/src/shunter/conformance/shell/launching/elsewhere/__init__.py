"""Programs that run in the interpreter of an engine: each file stands alone, for nothing of ours may be installed there."""

from pathlib import Path

__all__ = ["program"]


def program(name: str) -> Path:
    """Return the file of a program."""
    return Path(__file__).with_name(f"{name}.py")
