"""The messages of ext_proc, whose Python code an extra of this package brings."""

import importlib
from typing import Any

from shunter.conformance.errors import UsageError

__all__ = ["EXTRA", "load"]

EXTRA = "pip install 'shunter-conformance[picker]'"
"""What brings them."""


def load(module: str) -> Any:
    """Import a module that an extra brings; raises UsageError that names the extra.

    The generated modules have no types, so what is made of them has none either.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UsageError(f"{error}; pickers and gateways are examined with what {EXTRA} installs") from None
