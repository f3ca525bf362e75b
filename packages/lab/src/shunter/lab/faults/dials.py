"""Faults with parameters: a server that is bad by a measure, which only an admin call can ask for."""

import difflib
import math
import re
from collections.abc import Callable
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from shunter.lab.errors import ParamsError
from shunter.lab.faults import faults_named
from shunter.lab.faults.seams import CHAT, COMPLETIONS, METRICS, Fault, Reply, page

__all__ = ["DIALS", "Dial", "read_faults"]

# What stands in a line of a family behind its name: series of histograms and counters have more in theirs.
_REST = re.compile("(?:_bucket|_sum|_count|_total)?[ {]")

Seconds = Annotated[float, Meta(ge=0, le=86_400)]


class Dial(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="name"):
    """A fault that is made of parameters."""

    def fault(self) -> Fault:
        """The fault itself."""
        raise NotImplementedError

    def _named(self, breaks: str, **seams: Any) -> Fault:
        params = msgspec.to_builtins(self)
        return Fault(name=params.pop("name"), breaks=breaks, params=params, **seams)


class Latency(Dial, frozen=True, tag="latency"):
    """Every answer of a completion or chat begins so much later."""

    seconds: Seconds

    def fault(self) -> Fault:
        return self._named(f"answers begin {self.seconds:g} s late", stall_s=dict.fromkeys((COMPLETIONS, CHAT), self.seconds))


class Errors(Dial, frozen=True, tag="errors"):
    """That share of completions and chats is answered with an error, evenly: with 0.1 it is each tenth."""

    rate: Annotated[float, Meta(ge=0, le=1)]
    status: Annotated[int, Meta(ge=400, le=599)] = 500

    def fault(self) -> Fault:
        asked = answered = 0

        def refuse(path: str, _age_s: float) -> int | None:
            nonlocal asked, answered
            if path not in {COMPLETIONS, CHAT}:
                return None
            asked += 1
            # Rounded, since the tenth of 0.1 would be due at the eleventh request by a sum of floats.
            due = math.floor(round(asked * self.rate, 9))
            answered, due = due, due - answered
            return self.status if due else None

        return self._named(f"{self.rate:.0%} of the answers are {self.status}", refuse=refuse)


class Drip(Dial, frozen=True, tag="drip"):
    """Each event of a stream comes so much later than it was ready."""

    seconds: Seconds

    def fault(self) -> Fault:
        return self._named(f"each event of a stream is {self.seconds:g} s late", event_s=self.seconds)


class Metric(Dial, frozen=True, tag="metric"):
    """All series of a family, of whatever dialect, say the same for ever."""

    family: str
    value: float

    def fault(self) -> Fault:
        says = self.value

        def lie(text: str, _: Reply) -> str:
            return _each_sample(text, self.family, lambda series: f"{series} {says}")

        return self._named(f"{self.family} is {says:g}", reply=page(lie))


class Renamed(Dial, frozen=True, tag="renamed"):
    """A family has another name."""

    family: str
    to: str

    def fault(self) -> Fault:
        def rename(text: str, _: Reply) -> str:
            lines = text.splitlines(keepends=True)
            return "".join(line.replace(self.family, self.to, 1) if _is_of(line, self.family) else line for line in lines)

        return self._named(f"{self.family} is called {self.to}", reply=page(rename))


class Late(Dial, frozen=True, tag="page-late"):
    """The metrics page comes so much later."""

    seconds: Seconds

    def fault(self) -> Fault:
        return self._named(f"the metrics page is {self.seconds:g} s late", stall_s={METRICS: self.seconds})


class Stale(Dial, frozen=True, tag="page-stale"):
    """The metrics page is made anew no more often than that; without seconds, never again."""

    seconds: Seconds | None = None

    def fault(self) -> Fault:
        stale_s = float("inf") if self.seconds is None else self.seconds
        return self._named("the metrics page is an old one", stale_s=stale_s)


def _is_of(line: str, family: str) -> bool:
    words = line.removeprefix("# HELP ").removeprefix("# TYPE ")
    return words.startswith(family) and bool(_REST.match(words, len(family)))


def _each_sample(text: str, family: str, change: Callable[[str], str]) -> str:
    def changed(line: str) -> str:
        return change(line.rpartition(" ")[0]) if _is_of(line, family) and not line.startswith("#") else line

    return "".join(f"{changed(line)}\n" for line in text.splitlines())


_Any = Latency | Errors | Drip | Metric | Renamed | Late | Stale

DIALS: dict[str, type[Dial]] = {
    kind.__struct_config__.tag: kind  # pyright: ignore[reportAssignmentType]  every tag here is a string
    for kind in (Latency, Errors, Drip, Metric, Renamed, Late, Stale)
}


def read_faults(body: bytes) -> tuple[Fault, ...]:
    """The faults that a JSON list asks for: names, and dials as objects with a name and parameters."""
    try:
        asked = msgspec.json.decode(body, type=list[str | dict[str, Any]])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        example = '{"name": "latency", "seconds": 1}'
        raise ParamsError(f"want a JSON list of names, and of objects such as {example}: {error}") from error
    faults: list[Fault] = []
    for index, each in enumerate(asked):
        if isinstance(each, str) and each not in DIALS:
            faults += faults_named([each])
            continue
        dial = {"name": each} if isinstance(each, str) else each
        name = dial.get("name")
        if not isinstance(name, str) or name not in DIALS:
            near = difflib.get_close_matches(str(name), DIALS)
            raise ParamsError(
                f"fault {name!r} takes no parameters or does not exist; "
                + (f"near: {', '.join(near)}" if near else f"with parameters there are {', '.join(DIALS)}")
            )
        try:
            faults.append(msgspec.convert(dial, _Any).fault())
        except msgspec.ValidationError as error:
            raise ParamsError(f"fault {index}, {name}: {error}") from error
    return tuple(faults)
