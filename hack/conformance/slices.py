"""A plugin of pytest for what takes an hour: it runs a share of the tests that have not passed yet, and leaves off in time.

SHUNTER_SLICE has the `Slice` as JSON. A test that has begun is ended before the time is looked at.
"""

import json
import os
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest

Row = Mapping[str, Any]


class Slice(msgspec.Struct, frozen=True):
    """The share of this process `of` so many, when it is to leave off (Unix time), and the file that tells how tests ended.

    `done` have passed before: what the other processes do meanwhile must not change the shares.
    """

    ended: str
    done: frozenset[str]
    share: int
    of: int
    until: float | None = None

    def over(self) -> bool:
        return self.until is not None and time.time() >= self.until

    def left(self, tests: Iterable[str]) -> set[str]:
        """The share of those that are not done, in whatever order they are given."""
        return set(sorted(set(tests) - self.done)[self.share :: self.of])


def passed(ended: Iterable[Row]) -> set[str]:
    """The tests that have passed when they ended last."""
    return {test for test, well in {row["test"]: row["passed"] for row in ended}.items() if well}


def read(file: Path) -> list[Row]:
    """Read lines of JSON; none if there is no file, and not the half one that a killed writer has left."""
    rows: list[Row] = []
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
        with suppress(json.JSONDecodeError):
            rows.append(json.loads(line))
    return rows


class _Plugin:
    def __init__(self, wanted: Slice) -> None:
        self._wanted = wanted

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        left = self._wanted.left(item.nodeid for item in items)
        config.hook.pytest_deselected(items=[item for item in items if item.nodeid not in left])
        items[:] = [item for item in items if item.nodeid in left]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed or (report.when == "call" and report.passed):
            with Path(self._wanted.ended).open("a", encoding="utf-8") as lines:
                lines.write(json.dumps({"test": report.nodeid, "passed": report.passed}) + "\n")

    def pytest_runtest_teardown(self, item: pytest.Item) -> None:
        if self._wanted.over():
            item.session.shouldstop = "the time is up"


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(_Plugin(msgspec.json.decode(os.environ["SHUNTER_SLICE"], type=Slice)))
