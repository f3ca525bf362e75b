"""The configurations that come with the picker, by name: the default one and well-known others to compare it with.

Each is a file of the directory ``builtin`` whose first line, a comment, says what it is.
"""

from importlib import resources

from shunter.picker.config.reading import did_you_mean
from shunter.picker.errors import ConfigError

__all__ = ["about_builtin", "builtin_names", "read_builtin"]

_FILES = resources.files("shunter.picker.config") / "builtin"
_ENDING = ".yaml"


def builtin_names() -> list[str]:
    """Return all names, the default's first."""
    names = (file.name.removesuffix(_ENDING) for file in _FILES.iterdir() if file.name.endswith(_ENDING))
    return sorted(names, key=lambda name: (name != "default", name))


def read_builtin(name: str) -> str:
    """Return the text of a configuration; raise ConfigError."""
    if name not in builtin_names():
        raise ConfigError(f"no built-in configuration is named {name!r}{did_you_mean(name, builtin_names())}")
    return (_FILES / f"{name}{_ENDING}").read_text()


def about_builtin(name: str) -> str:
    """Return the sentence that says what it is."""
    return read_builtin(name).partition("\n")[0].removeprefix("# ")
