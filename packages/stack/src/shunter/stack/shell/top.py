"""``top`` and ``explain``: read the running picker's debug pages and show them."""

import http.client
import shutil
import sys
import time
from collections.abc import Sequence
from typing import TypeVar
from urllib.parse import urlencode

import msgspec

from shunter.stack.core.cluster import Cluster, grievances
from shunter.stack.core.fleet import Decisions, Fleet, Shadow, explain, mention, table
from shunter.stack.core.plan import LOOPBACK
from shunter.stack.core.screen import fit, printable
from shunter.stack.errors import StackError
from shunter.stack.shell import state, web

__all__ = [
    "ALL",
    "Screen",
    "compare_shadow",
    "decisions",
    "fetch_complaints",
    "fetch_decisions",
    "fetch_fleet",
    "pages_of",
    "watch",
]

# More than any picker keeps.
ALL = 100_000
REFRESH_S = 1.0
# Without a terminal nobody watches: a line block every so often is a log, one a second is noise.
REFRESH_PLAIN_S = 10.0
WHERE = {
    "picker": "a picker's pages are where its --admin-port says, 9090 unless told otherwise",
    "scraper": "the scraper is not there, or hangs",
}

Page = TypeVar("Page")


def fetch_fleet(admin: str) -> Fleet:
    """Return what the picker whose admin page is at ``admin`` sees; raise StackError if it does not answer."""
    return _page(admin, "/debug/fleet", Fleet)


def fetch_complaints(scraper: str) -> list[str]:
    """Return what the scraper whose pages are at ``scraper`` complains of, a line each, or that it does not answer."""
    try:
        return grievances(_page(scraper, "/debug/cluster", Cluster, "scraper"))
    except StackError as error:  # one that died is started again, and what the picker sees is worth showing
        return [str(error)]


def fetch_decisions(admin: str, last: int, request_id: str | None = None) -> Decisions:
    """Return the picker's last decisions, or those of one request; raise StackError if it does not answer."""
    wanted = {"last": last} | ({"id": request_id} if request_id is not None else {})
    return _page(admin, f"/debug/decisions?{urlencode(wanted)}", Decisions)


def pages_of(name: str) -> tuple[str, str]:
    """Return where picker and scraper of a stack have their pages; raise StackError if none of that name runs."""
    ports = state.load(name).plan.ports
    return f"{LOOPBACK}:{ports.admin}", f"{LOOPBACK}:{ports.scraper}"


def decisions(admin: str, last: int, request_id: str | None, *, as_json: bool = False) -> str:
    """Return the last decisions, newest last, on a line each, or all about the one of ``request_id``; or either as JSON."""
    page = fetch_decisions(admin, last, request_id)
    found = page.decisions[::-1]
    if not found:
        remedy = f" for x-request-id {request_id}; the picker forgets old ones, and all at a reload" if request_id else " yet"
        raise StackError(f"no decision{remedy}")
    if as_json:
        return "\n".join(msgspec.json.encode(decision).decode() for decision in found)
    whole = request_id is not None or last == 1
    lines = [line for each in found for line in (explain(each, page.now_s) if whole else [mention(each, page.now_s)])]
    return "\n".join(map(printable, lines))


def compare_shadow(admin: str) -> str:
    """Return what the picker says of its shadow configuration."""
    page = _page(admin, "/debug/shadow", Shadow)
    if not page.report:
        raise StackError("the picker has no shadow configuration: start it with --shadow-config")
    return "\n".join(page.report)


def watch(name: str, picker: str | None, *, once: bool) -> None:
    """Show what a picker sees, or that of a stack, until interrupted, or until the stack has ended (StackError)."""
    screen = Screen()
    try:
        while True:
            admin, scraper = (picker, None) if picker else pages_of(name)
            try:
                lines = table(fetch_fleet(admin))
                lines += fetch_complaints(scraper) if scraper else []
            except StackError as error:  # a picker that died is started again
                if once:
                    raise
                lines = [str(error)]
            screen.show(lines)
            if once:
                return
            time.sleep(screen.refresh_s)
    except KeyboardInterrupt:
        screen.leave()


class Screen:
    """Redraws a block of lines in place on a terminal; elsewhere appends it."""

    def __init__(self) -> None:
        """Draw on standard output."""
        self.terminal = sys.stdout.isatty()
        self.refresh_s = REFRESH_S if self.terminal else REFRESH_PLAIN_S
        self._drawn = 0

    def show(self, lines: Sequence[str]) -> None:
        """Draw, over what was shown last."""
        if self.terminal:
            lines = fit(lines, *shutil.get_terminal_size())
        self._write(lines)
        self._drawn = len(lines)

    def say(self, text: str) -> None:
        """Print something that stays, above the block."""
        self._write(text.splitlines())
        self._drawn = 0

    def leave(self) -> None:
        """End on a line of its own."""
        sys.stdout.write("\n" if self.terminal else "")

    def _write(self, lines: Sequence[str]) -> None:
        if self.terminal and self._drawn:
            sys.stdout.write(f"\x1b[{self._drawn}A\x1b[J")
        sys.stdout.write("".join(f"{printable(line)}\n" for line in lines))
        sys.stdout.flush()


def _page(admin: str, path: str, kind: type[Page], whose: str = "picker") -> Page:
    try:
        answer = web.get(admin, path)
        if answer.status == 200:
            return msgspec.json.decode(answer.body, type=kind)
    except OSError as error:
        raise StackError(f"nobody answers at http://{admin}{path}: {error}; {WHERE[whose]}") from error
    except (http.client.HTTPException, msgspec.MsgspecError) as error:
        raise StackError(f"what answers at http://{admin}{path} is no {whose}'s page; {WHERE[whose]}") from error
    raise StackError(f"http://{admin}{path} answered {answer.status}{_words(answer)}")


def _words(answer: web.Answer) -> str:
    """Say why, as the picker does in a line."""
    first = answer.body.decode(errors="replace").partition("\n")[0]
    return f": {first}" if first else ""
