"""Moves traffic: writes weights where pickers or gateways take them from, and says which are in force."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import msgspec

from shunter.rollout.core.documents import read_mapping
from shunter.rollout.core.sight import Page, in_force
from shunter.rollout.core.spec import Rollout
from shunter.rollout.core.weights import is_of, rewrite
from shunter.rollout.errors import ConfigError, ServerError, StateError
from shunter.rollout.shell.following import read_file
from shunter.rollout.shell.store import replace_file

__all__ = ["RewriteFile", "Traffic"]


class Traffic(Protocol):
    """Where the weights are. Both methods raise ServerError for what may pass, ConfigError for what does not."""

    async def share(self, pages: Sequence[Page]) -> int | None:
        """Return the percentage of the new side that is in force; ``pages`` are what pickers say."""
        ...

    async def move(self, share: int) -> None:
        """Give the new side so many per cent."""
        ...


class RewriteFile:
    """An InferenceModelRewrite in a file of its own, which the scraper reads; pickers tell what is in force."""

    def __init__(self, rollout: Rollout) -> None:
        """Refuse a file that has anything else in it; raises ConfigError."""
        self._rollout = rollout
        self._path = Path(rollout.traffic.rewrite_file)
        if self._path.exists():
            if not is_of(rollout, read_mapping(str(self._path), read_file(self._path))):
                raise ConfigError(
                    f"{self._path}: not only a rewrite of {rollout.model} in this pool: give that a file of its own"
                )
        elif not self._path.parent.is_dir():
            raise ConfigError(f"$.traffic.rewriteFile: there is no directory {self._path.parent}")

    async def share(self, pages: Sequence[Page]) -> int | None:
        """Return what pickers say."""
        return in_force(pages, self._rollout)

    async def move(self, share: int) -> None:
        """Replace the file, unless it says so already."""
        content = msgspec.yaml.encode(rewrite(self._rollout, share))
        if self._path.exists() and await asyncio.to_thread(read_file, self._path) == content:
            return
        try:
            await asyncio.to_thread(replace_file, self._path, content)
        except StateError as error:  # a full disk may be so for a while
            raise ServerError(str(error)) from None
