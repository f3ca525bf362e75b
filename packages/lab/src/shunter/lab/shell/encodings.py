"""What engines of one model have encoded, in a directory that they share, by the hash of what it shows.

As vLLM's ECExampleConnector has it: a folder for each picture, and in it a file of safetensors. The ones written here hold no
tensor, only how many tokens it would be of. Of what is found only the name counts, since others write there, too. Nobody
removes anything, as with vLLM: whoever makes the directory sees to that.
"""

import os
from pathlib import Path

import msgspec

from shunter.lab.errors import ParamsError

__all__ = ["FILE", "Encodings"]

FILE = "encoder_cache.safetensors"


class Encodings:
    """The directory. A look at it is a system call or two, which may hold up an event loop that serves a laboratory."""

    def __init__(self, directory: Path) -> None:
        """Make it, unless it is there. Raises ParamsError."""
        self._directory = directory
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ParamsError(f"--ec-storage {directory}: {error.strerror or error}; choose a directory to write to") from error

    def holds(self, key: str) -> bool:
        """Say whether somebody has encoded that; not if it cannot be told."""
        return os.path.isfile(self._directory / key / FILE)  # noqa: PTH113  Path.is_file raises, of what may not be looked at

    def store(self, key: str, tokens: int) -> bool:
        """Leave it to others, whole or not at all; False if the directory takes nothing."""
        header = msgspec.json.encode({"__metadata__": {"written_by": "shunter lab", "tokens": str(tokens)}})
        folder = self._directory / key
        unfinished = folder / f".{os.getpid()}"
        try:
            folder.mkdir(exist_ok=True)
            unfinished.write_bytes(len(header).to_bytes(8, "little") + header)
            unfinished.replace(folder / FILE)
        except OSError:
            return False
        return True
