"""Files that people name on the command line: what is wrong with one is said in one line."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from shunter.conformance.errors import UsageError

__all__ = ["check_report", "read_file", "write_reports"]


def check_report(path: Path, suffixes: Iterable[str]) -> None:
    """Refuse the name of a report that could not be written, before an exam is held for it."""
    if path.suffix not in suffixes:
        raise UsageError(f"--report {path}: want a file name that ends in {', '.join(suffixes)}")
    if not path.parent.is_dir():
        raise UsageError(f"--report {path}: there is no directory {path.parent}")
    if not os.access(path if os.access(path, os.F_OK) else path.parent, os.W_OK):
        raise UsageError(f"--report {path}: it may not be written")


def read_file(path: Path) -> str:
    """Read a text."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path}: not UTF-8") from None


def write_reports(texts: Mapping[Path, str]) -> None:
    """Write all reports that can be written; then raise UsageError for those that cannot."""
    problems: list[str] = []
    for path, text in texts.items():
        try:
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            problems.append(f"--report {path}: {error.strerror}")
    if problems:
        raise UsageError("; ".join(problems))
