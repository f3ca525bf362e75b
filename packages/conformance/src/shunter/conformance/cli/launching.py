"""What a model server's exam is held with: a URL, or a server that it starts; and what the examiner has beside it."""

from collections.abc import Callable, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar

import click

from shunter.conformance.cli.images import IMAGE_NAMES, IMAGE_OPTIONS, ImageWishes
from shunter.conformance.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from shunter.conformance.core.events import Event
    from shunter.conformance.sections.servers.target import Means
    from shunter.conformance.shell.launching.driver import Driver

__all__ = ["Sought", "sought_options"]

KINDS = ("vllm", "sglang", "triton", "llamacpp", "lab")

Command = TypeVar("Command", bound=Callable[..., Any])


class Sought:
    """What is to be examined; raises UsageError for what cannot be."""

    def __init__(
        self,
        words: Sequence[str],
        *,
        launch: str | None,
        python: str,
        program: str,
        loras: Sequence[str],
        kv_events: str,
        kv_replay: str,
        prefill_url: str,
        image: ImageWishes,
    ) -> None:
        self._image = image
        self._words, self._launch, self._python, self._program = tuple(words), launch, python, program
        self._loras, self._given = tuple(loras), {"kv_events": kv_events, "kv_replay": kv_replay, "prefill_url": prefill_url}
        if (python or program) and not launch:
            raise UsageError("--python and --bin say where an engine is that --launch starts")
        if launch and image.named:
            raise UsageError(f"--container {image}: there is --launch {launch} already")
        starts = bool(launch) or image.named
        if not starts and len(self._words) != 1:
            raise UsageError(
                "want one URL, --launch ENGINE or --container IMAGE"
                if not words
                else f"{words[1]!r}: one URL is examined at a time"
            )
        if starts and self._words and "://" in self._words[0]:
            raise UsageError(
                f"{self._words[0]!r}: a server that is started has no URL yet; what is behind -- is for its command"
            )

    def __str__(self) -> str:
        """As a person calls it."""
        starting = self._launch or (str(self._image) if self._image.named else "")
        return f"{starting}, which is being started" if starting else self._words[0]

    def examine(self, **options: Any) -> "AsyncGenerator[Event]":
        """Return the exam of it."""
        from shunter.conformance.shell.launching.exam import examine_launched
        from shunter.conformance.shell.servers.exam import examine

        if means := self._means():
            options["means"] = means
        driver = self._driver(options.get("profile"), options.get("health_path"))
        return examine_launched(driver, **options) if driver else examine(self._words[0], **options)

    def _driver(self, profile: str | None, health_path: str | None) -> "Driver | None":
        from shunter.conformance.sections.servers.profiles import GENERIC, find_profile

        if self._image.named:
            kind = find_profile(profile) if profile else GENERIC
            return self._image.driver(self._words, health_path or kind.health_path)
        return self._process(self._launch) if self._launch else None

    def _process(self, kind: str) -> "Driver":
        from shunter.conformance.shell.launching.process import Process
        from shunter.conformance.shell.launching.recipes import LAUNCHERS

        return Process(kind, LAUNCHERS[kind], python=self._python, program=self._program, arguments=self._words)

    def _means(self) -> "Means | None":
        from shunter.conformance.sections.servers.target import Adapter, Means

        adapters: list[Adapter] = []
        for text in self._loras:
            name, equals, path = text.partition("=")
            if not (name and equals and path):
                raise UsageError(f"--lora {text!r}: want NAME=PATH, where PATH is the server's own")
            adapters.append(Adapter(name, path))
        for option in ("kv_events", "kv_replay"):
            if (url := self._given[option]) and "://" not in url:
                raise UsageError(f"--{option.replace('_', '-')} {url!r}: want tcp://HOST:PORT")
        means = Means(adapters=tuple(adapters), **self._given)
        return None if means == Means() else means


def sought_options(command: Command) -> Command:
    """Give a command the argument and the options of `Sought`, which it gets as `sought`."""

    @wraps(command)
    def wrapped(
        *args: Any,
        words: tuple[str, ...],
        launch: str | None,
        python: str,
        program: str,
        loras: tuple[str, ...],
        kv_events: str,
        kv_replay: str,
        prefill_url: str,
        **options: Any,
    ) -> Any:
        image = ImageWishes(**{name: options.pop(name) for name in IMAGE_NAMES})
        sought = Sought(
            words,
            launch=launch,
            python=python,
            program=program,
            loras=loras,
            kv_events=kv_events,
            kv_replay=kv_replay,
            prefill_url=prefill_url,
            image=image,
        )
        return command(*args, sought=sought, **options)

    for option in reversed(OPTIONS):
        wrapped = option(wrapped)
    return wrapped  # pyright: ignore[reportReturnType] # click's decorators keep what they decorate


OPTIONS: tuple[Callable[[Any], Any], ...] = (
    click.argument("words", metavar="[URL | -- ARGS...]", nargs=-1),
    click.option(
        "--launch",
        type=click.Choice(KINDS),
        help="Start this server, examine it and end it. ARGS are appended to its command.",
    ),
    *IMAGE_OPTIONS,
    click.option(
        "--python",
        metavar="FILE",
        default="",
        help="The interpreter for which --launch's engine is installed.  [default: its program in PATH, or this one]",
    ),
    click.option("--bin", "program", metavar="FILE", default="", help="The program of --launch's engine."),
    click.option(
        "--lora",
        "loras",
        metavar="NAME=PATH",
        multiple=True,
        help="A LoRA adapter that the server can load, and has not; repeat for several.",
    ),
    click.option("--kv-events", metavar="tcp://HOST:PORT", default="", help="Where the server publishes KV events (ZMQ)."),
    click.option("--kv-replay", metavar="tcp://HOST:PORT", default="", help="Where it repeats them to who missed some."),
    click.option("--prefill-url", metavar="URL", default="", help="A second server, which computes prompts for this one."),
)
