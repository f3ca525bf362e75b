"""Files that people name on the command line: what is wrong with one is said in one line."""

from collections.abc import Iterable
from pathlib import Path

from shunter.conformance.errors import UsageError

__all__ = ["check_report", "read_file", "write_report"]


def check_report(path: Path, suffixes: Iterable[str]) -> None:
    """Refuse the name of a report that could not be written, before an exam is held for it."""
    if path.suffix not in suffixes:
        raise UsageError(f"--report {path}: want a file name that ends in {', '.join(suffixes)}")
    if not path.parent.is_dir():
        raise UsageError(f"--report {path}: there is no directory {path.parent}")


def read_file(path: Path) -> str:
    """Read a text."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path}: not UTF-8") from None


def write_report(path: Path, text: str) -> None:
    """Write a report."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"--report {path}: {error.strerror}") from None
