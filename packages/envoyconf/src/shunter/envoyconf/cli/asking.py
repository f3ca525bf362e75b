"""What several commands ask for: from what an intent is read, for which gateway, and how errors are told."""

import functools
import os
import sys
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

if TYPE_CHECKING:
    from shunter.envoyconf.core.output import Output, Settings
    from shunter.envoyconf.core.sources import Assembled
    from shunter.envoyconf.core.targets import Target

__all__ = ["Request", "asks", "chosen_target", "ensure_envoy", "is_piped_in", "plain_errors", "show", "tell", "warn"]


class Request(NamedTuple):
    """What was asked for, as it was written."""

    sources: tuple[str, ...]
    changes: tuple[str, ...]
    namespace: str
    target: str
    envoy_version: str | None
    xds_names: int

    def texts(self) -> dict[str, str]:
        """Read all sources, or what is piped in if there are none."""
        from shunter.envoyconf.shell.texts import read_texts

        if not self.sources and not is_piped_in():
            raise click.UsageError("no intent: give -f FILE, or pipe one in")
        return read_texts(self.sources or ("-",))

    def settings(self, directory: Path | None = None) -> "Settings":
        """Return what the generators ask for beside the intent; ``directory`` is where files will be that refer to others."""
        import msgspec

        from shunter.envoyconf.core.output import Settings
        from shunter.envoyconf.core.versions import DEFAULT_VERSION, parse_version

        version = parse_version(self.envoy_version) if self.envoy_version else DEFAULT_VERSION
        settings = Settings(envoy_version=version, xds_names=self.xds_names)
        return msgspec.structs.replace(settings, directory=str(directory.resolve())) if directory else settings

    def assembled(self, texts: dict[str, str]) -> "Assembled":
        """Return the intent of texts, with variables and changes."""
        from shunter.envoyconf.core.sources import assemble

        return assemble(texts, os.environ, self.changes, self.namespace)

    def output(self, texts: dict[str, str] | None = None, directory: Path | None = None) -> "Output":
        """Generate, and warn of what a person should know."""
        read = self.assembled(texts if texts is not None else self.texts())
        output = read.generate(chosen_target(self.target), self.settings(directory))
        warn((*read.notes, *output.warnings))
        return output


OPTIONS = (
    click.option(
        "-f",
        "--file",
        "sources",
        multiple=True,
        metavar="FILE|DIR|-",
        help="An intent (YAML or JSON), or the Kubernetes manifests that amount to one.  [default: what is piped in]",
    ),
    click.option(
        "--set",
        "changes",
        multiple=True,
        metavar="PATH=VALUE",
        help="Put a value in the place of the intent's, such as limits.retries=3 or pools[0].name=llama.",
    ),
    click.option("-n", "--namespace", default="default", show_default=True, help="Namespace of manifests that name none."),
    click.option(
        "--target",
        default="envoy-static",
        show_default=True,
        help="What it is for; the command targets lists them, and what each can do.",
    ),
    click.option("--envoy-version", help="The Envoy that is to run it, such as 1.38.  [default: the newest that is known]"),
    click.option(
        "--xds-name-scheme",
        "xds_names",
        type=click.IntRange(1, 2),
        default=1,
        show_default=True,
        help="How Envoy Gateway names what is patched: 2 if its XDSNameSchemeV2 is on.",
    ),
)


def asks(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of a Request, which becomes its first argument, and plain errors."""

    @functools.wraps(command)
    def ask(**given: Any) -> None:
        request = Request(**{name: given.pop(name) for name in Request._fields})
        with plain_errors():
            command(request, **given)

    for option in reversed(OPTIONS):
        ask = option(ask)
    return ask


def chosen_target(name: str) -> "Target":
    """Return the target of that name; raise IntentError if there is none."""
    from shunter.envoyconf.core.generate import MAKERS
    from shunter.envoyconf.core.spelling import suggest
    from shunter.envoyconf.errors import IntentError

    known = {target.value: target for target in MAKERS}
    if name not in known:
        raise IntentError(f"there is no target {name!r}; {suggest(name, known)}")
    return known[name]


def ensure_envoy(version: str | None) -> Path:
    """Return an Envoy binary, saying so if it has to be fetched."""
    from shunter.envoyconf.shell import envoy

    if binary := envoy.find(version):
        return binary
    tell(f"fetching Envoy {version or envoy.VERSION} (37 MB, once) …")
    return envoy.fetch(version or envoy.VERSION)


def warn(messages: Iterable[str]) -> None:
    """Say what is not wrong but should be known."""
    for message in messages:
        tell(f"Warning: {message}")


def show(text: str) -> None:
    """Print what was asked for, or say why it cannot be. A reader who has left the pipe ends the command without a word."""
    if sys.stdout is None:  # pyright: ignore[reportUnnecessaryComparison] # it is, if closed
        tell("Error: standard output is closed")
        raise SystemExit(2)
    try:
        click.echo(text, nl=False)
    except BrokenPipeError:
        raise
    except OSError as error:
        tell(f"Error: cannot write to standard output: {error.strerror}")
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left of it would fail again at the end
        raise SystemExit(2) from None


def is_piped_in() -> bool:
    """Whether something may come by standard input: it is open, and no terminal."""
    return sys.stdin is not None and not sys.stdin.isatty()  # pyright: ignore[reportUnnecessaryComparison] # it is, if closed


def tell(message: str) -> None:
    """Say something to a person: on standard error, which no program reads."""
    click.echo(message, err=True)


@contextmanager
def plain_errors() -> Generator[None]:
    """Turn our errors into one message and an exit code."""
    from shunter.envoyconf.errors import EnvoyconfError, IntentError

    try:
        yield
    except EnvoyconfError as error:
        tell(f"Error: {error}")
        raise SystemExit(2 if isinstance(error, IntentError) else 1) from None
