"""What a dialect is: everything in which one kind of model server differs from another on the wire."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import msgspec

from shunter.lab.core.answers import DONE, encode_error, encode_event
from shunter.lab.core.asks import parse_json
from shunter.lab.core.gauges import Gauges
from shunter.lab.core.models import Models
from shunter.lab.core.params import EngineParams
from shunter.lab.core.reporting import Refresh
from shunter.lab.core.tally import Histogram, Tally
from shunter.lab.errors import ApiError
from shunter.lab.faults import Fault

__all__ = ["Dialect", "Family", "Json", "Shape", "View", "render", "whole_number"]

Json = dict[str, Any]


class View(msgspec.Struct, frozen=True, kw_only=True):
    """One server at one instant, from which pages and facts about it are made. `live`: HTTP requests being answered."""

    models: Models
    params: EngineParams
    tally: Tally
    gauges: Gauges
    live: int
    unix_s: float

    @property
    def finished(self) -> int:
        """Requests that have had their last token."""
        return sum(self.tally.request_success.values())


class Family(msgspec.Struct, frozen=True):
    """One family of a metrics page: labels with values, or with histograms."""

    name: str
    kind: str
    about: str
    samples: tuple[tuple[Mapping[str, str], float], ...] = ()
    histograms: tuple[tuple[Mapping[str, str], Histogram], ...] = ()

    def series(self) -> Iterator[tuple[str, Mapping[str, str], float]]:
        """Name, labels and value of every line."""
        for labels, value in self.samples:
            yield self.name, labels, value
        for labels, histogram in self.histograms:
            total = 0
            yield f"{self.name}_sum", labels, histogram.sum
            for bound, count in zip((*histogram.bounds, math.inf), histogram.counts, strict=True):
                total += count
                yield f"{self.name}_bucket", {**labels, "le": "+Inf" if bound == math.inf else str(bound)}, total
            yield f"{self.name}_count", labels, total


def decimal(value: float) -> str:
    """A value as Python's client prints it: 4.0."""
    return repr(float(value)) if value == value else "NaN"  # noqa: PLR0124  NaN alone differs from itself


def whole_number(value: float) -> str:
    """A value as servers that are not written in Python print it: 4, not 4.0."""
    return str(int(value)) if value == int(value) else repr(value)


def render(families: Iterable[Family], number: Callable[[float], str]) -> bytes:
    """The page, with labels in alphabetical order as all of these servers have them.

    By hand, because prometheus_client writes no counter whose name does not end in `_total`, and Triton's do not.
    """
    lines: list[str] = []
    for family in families:
        lines += [f"# HELP {family.name} {family.about}", f"# TYPE {family.name} {family.kind}"]
        for name, labels, value in family.series():
            inner = ",".join(f'{label}="{_escape(labels[label])}"' for label in sorted(labels))
            lines.append(f"{name}{{{inner}}} {number(value)}" if inner else f"{name} {number(value)}")
    return "".join(f"{line}\n" for line in lines).encode()


def _escape(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


class Shape(msgspec.Struct, frozen=True, kw_only=True):
    """What becomes of vLLM's JSON on its way out: of a whole answer, and of the events of a stream.

    An event is framed anew; None is not sent at all. `done` closes a stream.
    """

    whole: Callable[[Json], Json]
    event: Callable[[Json], Json | None]
    frame: Callable[[Json], bytes] = encode_event
    done: bytes = DONE


def _read(body: bytes) -> Json:
    return parse_json(body, Json)


def _vllm_error(error: ApiError) -> tuple[int, bytes]:
    return error.status, encode_error(error)


class Dialect(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of model server."""

    name: str
    release: str
    basis: str
    """How its ways are known."""

    # What it answers where.
    paths: Mapping[str, str]
    """The deeds of `shell/paths.py` by method and path."""
    adapter_paths: Mapping[str, str] = {}
    """Those that are there with LoRA only."""
    facts: Mapping[str, Callable[[View], Any]] = {}
    """What is said about the server in JSON, by the path of a GET."""
    no_path: tuple[int, bytes] = (404, b'{"detail":"Not Found"}')
    no_method: tuple[int, bytes] = (405, b'{"detail":"Method Not Allowed"}')
    health_s: float = 0.0
    """How long one that is ready takes to say so."""
    well: bytes = b""
    """What it says then."""

    # The metrics page.
    families: Callable[[View], Iterable[Family]] | None = None
    """What is on it; None is vLLM's, which `shell/metrics.py` makes."""
    number: Callable[[float], str] = decimal
    bounds: Mapping[str, tuple[float, ...]] = {}
    """Of the histograms that have not vLLM's."""
    process: bool = False
    """Whether Python's client tells of the process, too."""
    metrics_port: int | None = None
    """The port that the real server takes if the page is on one of its own."""
    refresh: Refresh = Refresh()

    # Requests and answers.
    shapes: Mapping[str, Shape] = {}
    """By deed; one without a shape answers as vLLM does."""
    error: Callable[[ApiError], tuple[int, bytes]] = _vllm_error
    read: Callable[[bytes], Json] = _read
    """Makes a completion's body of one of the generate deed; raises ApiError."""
    own_ids: bool = False
    """Whether no answer has the client's X-Request-Id for its id."""

    # Models.
    owned_by: str = "shunter-lab"
    card: tuple[str, ...] | None = None
    """The members of a model card; None is all of vLLM's."""
    selector: str = "{adapter}"
    """What a request calls an adapter."""
    lenient: bool = False
    """Whether the base model answers for any name."""

    # Defects.
    quirks: tuple[Fault, ...] = ()
    """The faults that the real one has, beside what is wrong with its shapes."""
    families_of_vllm: Mapping[str, str] = {}
    """What vLLM, and with it every fault, calls the families of its page."""
