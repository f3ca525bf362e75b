"""The page docs/gateway/matrix.md: what is promised, and how often that was tried with which result."""

import re
from collections.abc import Iterable, Iterator
from enum import Enum
from pathlib import Path
from string import Template

from hack.matrix.promises import WAYS, Outcome
from hack.matrix.rows import Row

from shunter.envoyconf import Profile
from shunter.envoyconf.core.targets import Target

__all__ = ["write"]

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "gateway" / "matrix.md"

# The version of a row about a gateway that brings its own data plane.
NO_ENVOY = "-"

WORDS = {
    Outcome.PICKED: "as picked",
    Outcome.SERVED: "without a pick",
    Outcome.REFUSED: "503",
    Outcome.TIMEOUT: "504",
    Outcome.CUT: "**cut**",
}


def write(rows: Iterable[Row], path: Path = PAGE) -> None:
    """Write the page."""
    rows = list(rows)
    text = Template((HERE / "page.md").read_text()).substitute(
        promises="\n".join(_promises()), results="\n".join(_results(rows)), refusals="\n".join(_refusals(rows))
    )
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)


def _promises() -> Iterator[str]:
    yield "| profile | failureMode | healthy | dead | hung | killed before the response | killed during events |"
    yield "|---|---|---|---|---|---|---|"
    for (profile, failure), (healthy, dead, hung, killed) in WAYS.items():
        if profile is Profile.NATIVE:
            yield "| `native` | | no picker: always by key or load | | | | |"
            continue
        cells = [f"`{profile.value}`", failure.value, *(WORDS[each] for each in (healthy, dead, hung, *killed))]
        yield f"| {' | '.join(cells)} |"


def _results(rows: list[Row]) -> Iterator[str]:
    """Yield a table of how many checks were made of each profile of a target on each Envoy."""
    versions = sorted({row.envoy_version for row in rows}, key=_order)
    yield f"| target | profile | {' | '.join('its own' if each == NO_ENVOY else each for each in versions)} |"
    yield f"|---|---|{'---|' * len(versions)}"
    places = {(row.target, row.profile) for row in rows}
    for target, profile in sorted(places, key=lambda place: [_place(Target, place[0]), _place(Profile, place[1])]):
        mine = [row for row in rows if (row.target, row.profile) == (target, profile)]
        yield f"| `{target}` | `{profile}` | {' | '.join(_count(mine, version) for version in versions)} |"


def _count(rows: list[Row], version: str) -> str:
    mine = [row for row in rows if row.envoy_version == version]
    tried = [row for row in mine if "refused" not in row.check and not row.detail.startswith("refused")]
    if not tried:
        return "not to be had" if mine else ""
    failed = sum(not row.ok for row in tried)
    return f"**{failed} of {len(tried)} failed**" if failed else f"{len(tried)} ok"


def _refusals(rows: list[Row]) -> Iterator[str]:
    """Yield what was said where something cannot be had, each once, with the Envoys or gateways that cannot."""
    said: dict[str, list[str]] = {}
    for row in rows:
        if "refused" in row.check or row.detail.startswith("refused"):
            words = re.sub(r"; this is for \d+\.\d+", "", row.detail.removeprefix("refused: "))
            place = f"`{row.target}`" if row.envoy_version == NO_ENVOY else row.envoy_version
            said.setdefault(words, []).append(place)
    for words, places in said.items():
        yield f"* {', '.join(dict.fromkeys(places))}: {words}"


def _place(kind: type[Enum], value: str) -> int:
    """Where a target or profile stands among all; what is none of them comes last."""
    values = [each.value for each in kind]
    return values.index(value) if value in values else len(values)


def _order(version: str) -> list[int]:
    return [int(part) for part in version.split(".") if part.isdigit()]
