"""Texts from files, directories and standard input; and a file replaced as a whole or not at all."""

import os
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from shunter.envoyconf.errors import IntentError

__all__ = ["STDIN", "read_texts", "replace_text", "write_texts"]

STDIN = "<stdin>"
READABLE = 0o644
ENDINGS = {".yaml", ".yml", ".json"}


def read_texts(sources: Iterable[str]) -> dict[str, str]:
    """Return the texts by file: of each FILE, of the YAML and JSON files below each DIR in order, of standard input for ``-``.

    Below a DIR hidden files do not count: in a mounted ConfigMap they are the same ones once more. Raises IntentError for what
    cannot be read.
    """
    texts: dict[str, str] = {}
    for source in dict.fromkeys(sources):  # what is piped in can be read but once
        if source == "-":
            texts[STDIN] = _piped()
            continue
        for path in _files(Path(source)):
            try:
                # Line ends stay as they are: what is written back differs in nothing that was not asked for.
                with path.open(encoding="utf-8", newline="") as file:
                    texts[str(path)] = file.read()
            except UnicodeDecodeError as error:
                raise IntentError(f"{path} is not UTF-8: {error}") from None
            except OSError as error:
                raise IntentError(f"cannot read {path}: {error.strerror}") from None
    return texts


def _piped() -> str:
    if sys.stdin is None:  # pyright: ignore[reportUnnecessaryComparison] # it is, if closed
        raise IntentError(f"{STDIN} is closed; give -f FILE, or pipe something in")
    try:
        return sys.stdin.buffer.read().decode()
    except UnicodeDecodeError as error:
        raise IntentError(f"{STDIN} is not UTF-8: {error}") from None


def _files(path: Path) -> Iterator[Path]:
    if not path.is_dir():
        yield path
        return
    below = (each for each in path.rglob("*") if not any(part.startswith(".") for part in each.relative_to(path).parts))
    found = sorted(each for each in below if each.suffix in ENDINGS and each.is_file())
    if not found:
        raise IntentError(f"no file below {path} ends in {', '.join(sorted(ENDINGS))}")
    yield from found


def replace_text(path: str, text: str) -> None:
    """Put a text into the place of a file, keeping its mode; whoever reads it meanwhile sees the old one or the new one."""
    target = Path(path).resolve()
    mode = target.stat().st_mode & 0o7777 if target.exists() else READABLE
    try:
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    except OSError as error:
        raise IntentError(f"cannot write {path}: {error.strerror}") from None
    temporary = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
            file.write(text)
        temporary.chmod(mode)
        temporary.replace(target)
    except OSError as error:
        raise IntentError(f"cannot write {path}: {error.strerror}") from None
    finally:  # also if it is interrupted
        temporary.unlink(missing_ok=True)


def write_texts(directory: Path, texts: Mapping[str, str]) -> None:
    """Write files into a directory, which is made if need be; each appears, or takes another's place, as a whole."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            replace_text(str(directory / name), text)
    except OSError as error:
        raise IntentError(f"cannot write to {directory}: {error.strerror}") from None
