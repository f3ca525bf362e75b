"""Asks pickers what they know and what they counted."""

import asyncio
import socket
from collections import defaultdict
from collections.abc import Awaitable, Iterable, Iterator, Sequence
from typing import TypeVar
from urllib.parse import urlsplit

import aiohttp
import msgspec
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from shunter.rollout.core.analysis import Buckets, Counts
from shunter.rollout.core.sight import Page
from shunter.rollout.errors import ServerError
from shunter.rollout.shell.servers import read_answer

__all__ = ["Glance", "Pickers", "Tally", "read_tally"]

Answer = TypeVar("Answer")

# A page of a picker that serves a thousand endpoints comes in a fraction of it; its metrics are five megabytes at worst.
ANSWER_S = 5.0
MAX_PAGE_BYTES = 64 << 20

REQUESTS = "llm_d_epp_request_total"
ERRORS = "llm_d_epp_request_error_total"
RUNNING = "llm_d_epp_request_running"
TTFT = "llm_d_epp_request_ttft_seconds_bucket"
DURATION = "llm_d_epp_request_duration_seconds_bucket"
WANTED = (REQUESTS, ERRORS, RUNNING, TTFT, DURATION)


class Glance(msgspec.Struct, frozen=True):
    """What pickers show at one moment: their views of the fleet, and their metrics."""

    pages: tuple[Page, ...] = ()
    metrics: tuple[bytes, ...] = ()


class Tally(msgspec.Struct, frozen=True):
    """What pickers counted of one side, and how many of its requests run."""

    counts: Counts = Counts()
    running: float = 0.0


class Pickers:
    """Some pickers, by their URLs; a name that has several addresses is several pickers, such as a headless Service's."""

    def __init__(self, session: aiohttp.ClientSession, urls: Sequence[str]) -> None:
        self._session = session
        self._urls = urls

    async def look(self) -> Glance:
        """Ask them all; raises ServerError unless all answer."""
        fleets, metrics = await _all([self._everywhere("/debug/fleet"), self._everywhere("/metrics")])
        return Glance(tuple(_decode(url, page) for url, page in fleets), tuple(page for _, page in metrics))

    async def _everywhere(self, path: str) -> list[tuple[str, bytes]]:
        urls = [url for each in await _all([_addresses(url) for url in self._urls]) for url in each]
        return await _all([self._get(url, path) for url in urls])

    async def _get(self, url: str, path: str) -> tuple[str, bytes]:
        try:
            async with asyncio.timeout(ANSWER_S), self._session.get(url + path, allow_redirects=False) as response:
                page = await read_answer(response, MAX_PAGE_BYTES)
        except TimeoutError:
            raise ServerError(f"{url}{path}: no answer within {ANSWER_S:g} s") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise ServerError(f"{url}{path}: {error or type(error).__name__}") from None
        if response.status != 200:
            raise ServerError(f"{url}{path}: HTTP {response.status}")
        return url, page


def read_tally(pages: Iterable[bytes], model: str) -> Tally:
    """Return what all pages together say of a target model (empty: of all); raises ServerError."""
    sums: dict[str, float] = defaultdict(float)
    buckets: dict[str, dict[float, float]] = {TTFT: defaultdict(float), DURATION: defaultdict(float)}
    try:
        for sample in (sample for page in pages for sample in _samples(page, model)):
            if sample.name in buckets:
                buckets[sample.name][float(sample.labels["le"])] += sample.value
            else:
                sums[sample.name] += sample.value
    except (ValueError, KeyError, UnicodeError) as error:
        raise ServerError(f"/metrics: not Prometheus text: {error}") from None
    (answered, ttft), (timed, durations) = map(_split, buckets.values())
    ended = sums[REQUESTS] - sums[RUNNING]
    return Tally(Counts(ended, sums[ERRORS], answered, ttft, timed, durations), sums[RUNNING])


def _split(buckets: dict[float, float]) -> tuple[float, Buckets]:
    """Return how many there are in all, and those below each bound."""
    total = buckets.pop(float("inf"), 0.0)
    return total, tuple(sorted(buckets.items()))


def _samples(page: bytes, model: str) -> Iterator[Sample]:
    # Of megabytes a few lines are wanted: the parser is not shown the others.
    prefixes = tuple(f"{name}{{".encode() for name in WANTED)
    text = b"\n".join(line for line in page.splitlines() if line.startswith(prefixes)).decode()
    for family in text_string_to_metric_families(text + "\n"):
        yield from (each for each in family.samples if not model or each.labels.get("target_model_name") == model)


async def _all(asked: Iterable[Awaitable[Answer]]) -> list[Answer]:
    """Return all answers, or raise the first error once there is nobody left who is being asked."""
    answers: list[Answer] = []
    for each in await asyncio.gather(*asked, return_exceptions=True):
        if isinstance(each, BaseException):
            raise each
        answers.append(each)
    return answers


async def _addresses(url: str) -> list[str]:
    """Return the URL once for each address that its host has."""
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    if parts.scheme == "https" or host == "localhost":
        return [url.rstrip("/")]  # a certificate is for the name; and localhost is one picker, of either family
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise ServerError(f"{url}: {error.strerror or error}") from None
    # A pod has an address of each family: one of them is enough.
    addresses = dict.fromkeys(str(each[4][0]) for each in found if each[0] == found[0][0])
    return [f"http://[{each}]:{port}" if ":" in each else f"http://{each}:{port}" for each in addresses]


def _decode(url: str, page: bytes) -> Page:
    try:
        return msgspec.json.decode(page, type=Page)
    except (ValueError, RecursionError) as error:
        raise ServerError(f"{url}/debug/fleet: not a picker's page: {error}") from None
