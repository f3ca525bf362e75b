"""Text for a terminal: foreign words cannot move its cursor, and a block of lines fits it."""

from collections.abc import Sequence

__all__ = ["fit", "printable"]


def printable(line: str) -> str:
    """Spell out what is not printable, as Python does: model names and logs come from clients, who could send escapes."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in line)


def fit(lines: Sequence[str], columns: int, rows: int) -> list[str]:
    """Cut lines to a screen and leave a row for the cursor: what wraps or scrolls away could not be drawn over."""
    shown = list(lines)
    if len(shown) >= rows:
        kept = max(rows - 2, 0)
        shown = [*shown[:kept], f"… {len(shown) - kept} lines more"]
    return [line if len(line) <= columns else f"{line[: columns - 1]}…" for line in shown]
