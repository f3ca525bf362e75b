"""Counts by name in shared memory: a few rows, entered as names come up; what finds no room is counted as "other".

Words of 8 bytes: each row has a name, padded with zeros, and its count. One process writes, any may read.
"""

__all__ = ["OTHER", "NamedCounts"]

OTHER = "other"


class NamedCounts:
    """A view of the memory: ``words``, cut into rows of ``row`` words."""

    def __init__(self, words: memoryview, row: int) -> None:
        """Change nothing yet."""
        self._words = words
        self._row = row
        self._places: dict[str, int] = {}  # name → its count's word

    def begin(self) -> None:
        """Take over what was entered before; the counts go on."""
        self._places = {name: at for at, name in self._entered()}

    def add(self, name: str) -> None:
        """Count one."""
        self._words[self._places.get(name) or self._enter(name)] += 1

    def counts(self) -> dict[str, int]:
        """Return what is counted at this moment."""
        return {name: self._words[at] for at, name in self._entered()}

    def _entered(self) -> list[tuple[int, str]]:
        found: list[tuple[int, str]] = []
        for at in range(self._row - 1, len(self._words), self._row):
            name = self._words[at - self._row + 1 : at].tobytes().rstrip(b"\0")
            if name:
                found.append((at, name.decode("utf-8", "replace")))
        return found

    def _enter(self, name: str) -> int:
        """Return where a name's count is, whatever of the name has room."""
        places, most, size = self._places, len(self._words) // self._row, 8 * (self._row - 1)
        # Zeros at the end could not be told from the padding by whoever begins next.
        encoded = name.encode("utf-8", "replace")[:size].rstrip(b"\0") or OTHER.encode()
        name = encoded.decode("utf-8", "replace")
        if name in places:
            return places[name]
        if len(places) >= most - 1 and name != OTHER:
            return places.get(OTHER) or self._enter(OTHER)
        first = self._row * len(places)
        at = places[name] = first + self._row - 1
        self._words[first:at] = memoryview(encoded.ljust(size, b"\0")).cast("Q")
        return at
