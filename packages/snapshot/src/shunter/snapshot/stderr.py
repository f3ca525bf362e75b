"""What a process says on standard error: one line an event, as text or as JSON, and few of one kind.

It is here because this is the one package that all processes know, and whoever collects their logs wants one form of them.

As JSON a line is an object with these members, then those that belong to the event (``extra={"fields": {…}}``)::

    time       RFC 3339 in UTC, to the millisecond
    level      debug, info, warning, error or critical
    logger     whose statement it is: a module's name
    process    which process: supervisor, worker-0, collector, scraper …
    message    for people
    exception  a traceback, if there is one

As text they follow the message as ``name=value``. Whatever was said of a client's making, a line stays one line.
"""

import logging
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, Literal, cast

import msgspec

__all__ = [
    "BURST",
    "LONGEST_BYTES",
    "PERIOD_S",
    "Form",
    "JsonLines",
    "Level",
    "Sparing",
    "TextLines",
    "log_to_stderr",
    "shorten",
    "toggle_debug",
]

Form = Literal["text", "json"]
Level = Literal["debug", "info", "warning", "error"]

# Of lines that one statement writes: enough to see what is going on, and from whom. A peer that goes on making the same
# mistake, a thousand times a second, must neither fill a disk with it nor hide what else is.
BURST = 20
PERIOD_S = 10.0

# Container runtimes cut lines at 16 KiB, and half an object is none.
LONGEST_BYTES = 16 << 10

# Characters of a message, and the last ones of a traceback: at six bytes each (``\u0000``) both and the rest fit into a line.
LONGEST_MESSAGE = 1_000
LONGEST_EXCEPTION = 1_500

# aiohttp's errors of which a client is the reason, by name: this package has no other use for aiohttp.
NO_HTTP = {"HttpProcessingError", "RequestPayloadError"}

log = logging.getLogger(__name__)

CONTROLS = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029)}


def log_to_stderr(level: Level, form: Form, who: str) -> None:
    """Let this process, which is called ``who``, say what is of this level at least."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines(who) if form == "json" else TextLines(who))
    handler.addFilter(shorten)
    handler.addFilter(Sparing())
    logging.basicConfig(level=level.upper(), handlers=[handler])


def toggle_debug(level: Level) -> None:
    """Say everything, or if that is so already, what is of this level at least."""
    root = logging.getLogger()
    wanted: Level = "debug" if root.level != logging.DEBUG else level
    root.setLevel(wanted.upper())
    log.info("log level: %s", wanted)


def shorten(record: logging.LogRecord) -> bool:
    """Warn in one line of what is no HTTP. Where in aiohttp that was noticed helps nobody, and the mistake is a client's."""
    error = record.exc_info[1] if record.exc_info else None
    if NO_HTTP & {kind.__name__ for kind in type(error).__mro__}:
        record.levelno, record.levelname = logging.WARNING, "WARNING"
        record.msg = f"{record.msg}: {type(error).__name__}"
        record.exc_info = None
    return True


class TextLines(logging.Formatter):
    """A line for people; only a traceback takes several."""

    def __init__(self, who: str) -> None:
        super().__init__(f"%(asctime)s %(levelname)s {who} %(name)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  the library's name
        """See logging.Formatter."""
        fields = "".join(f" {name}={_plain(value)}" for name, value in _fields(record).items())
        return (super().formatMessage(record) + fields).translate(CONTROLS)


class JsonLines(logging.Formatter):
    """A line for machines, of LONGEST_BYTES at most: what is longer goes without its fields."""

    def __init__(self, who: str) -> None:
        super().__init__()
        self._who = who

    def format(self, record: logging.LogRecord) -> str:
        """See logging.Formatter."""
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        told: dict[str, Any] = {
            "time": f"{seconds}.{int(record.created % 1 * 1e3):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "process": self._who,
            "message": record.getMessage()[:LONGEST_MESSAGE],
        }
        if record.exc_info:
            told["exception"] = self.formatException(record.exc_info)[-LONGEST_EXCEPTION:]
        line = _encode({**told, **_fields(record), **told})
        return (line if len(line) < LONGEST_BYTES else _encode(told)).decode()


class Sparing(logging.Filter):
    """Lets pass BURST records of one statement in PERIOD_S; the first one after that tells how many it kept back.

    What has fields is not of a kind but a sample, as large as somebody wanted it: it passes.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        # File, line, and level, of which aiohttp's only statement for errors has two → since when, and how many.
        self._counts: dict[tuple[str, int, int], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """See logging.Filter."""
        if _fields(record):
            return True
        now_s = self._clock()
        statement = record.pathname, record.lineno, record.levelno
        since_s, count = self._counts.get(statement, (now_s, 0))
        if now_s - since_s >= PERIOD_S:
            if count > BURST:
                record.msg = f"{record.msg} (and {count - BURST} before it that were not shown)"
            since_s, count = now_s, 0
        self._counts[statement] = since_s, count + 1
        if count == BURST - 1:  # else a reader took it for the last there was
            record.msg = f"{record.msg} (if there are more within {PERIOD_S:g} s, they are not shown)"
        return count < BURST


def _fields(record: logging.LogRecord) -> Mapping[str, Any]:
    return getattr(record, "fields", None) or {}


def _plain(value: Any) -> str:
    """Write a value so that a reader sees where it ends."""
    if isinstance(value, str) and value.isascii() and value.isprintable() and value and not set(value) & {" ", '"', "="}:
        return value
    return _encode(value).decode()


def _encode(value: Any) -> bytes:
    try:
        return msgspec.json.encode(value, enc_hook=str)
    except UnicodeEncodeError:  # half a surrogate pair, which a client's bytes may have become
        return msgspec.json.encode(_whole(value), enc_hook=str)


def _whole(value: Any) -> Any:
    """Return text that is in UTF-8, and so on for what consists of such."""
    if isinstance(value, str):
        return value.encode(errors="replace").decode()
    if isinstance(value, Mapping):
        return {_whole(name): _whole(each) for name, each in cast("Mapping[Any, Any]", value).items()}
    if isinstance(value, list | tuple):
        return [_whole(each) for each in cast("list[Any]", value)]
    return value
