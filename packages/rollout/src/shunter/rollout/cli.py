"""The commands: ``shunter rollout sync`` for adapters, and those that move traffic."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from shunter.rollout.core.machine import Wish
    from shunter.rollout.core.spec import Rollout
    from shunter.rollout.shell.servers import Access
    from shunter.rollout.shell.store import Store

__all__ = ["main"]

Result = TypeVar("Result")

SECONDS = click.FloatRange(0.1, 3600)
UNFINISHED = 1  # rolled back, halted, or not as it should be

Command = TypeVar("Command", bound="Callable[..., object] | click.Command")


def reaching_servers(command: Command) -> Command:
    """Add the options that say how model servers are reached."""
    path = click.Path(path_type=Path)
    for option in (
        click.option(
            "--timeout", "timeout_s", type=SECONDS, default=120.0, show_default=True, help="Seconds that a load may take."
        ),
        click.option("--ca-file", type=path, help="Use TLS, and trust the certificates of these authorities."),
        click.option("--token-file", type=path, help="Show model servers this token.  [default: $SHUNTER_ROLLOUT_TOKEN]"),
    ):
        command = option(command)
    return command


def looking(command: Command) -> Command:
    """Add the option that says how often a rollout looks around."""
    option = click.option(
        "--interval", "interval_s", type=SECONDS, default=1.0, show_default=True, help="Seconds between looks."
    )
    return option(command)


def kept_in(command: Command) -> Command:
    """Add the option that says where rollouts are kept."""
    return click.option(
        "--state",
        metavar="PLACE",
        help="Where rollouts are kept, a directory or configmap:NAMESPACE.  [default: ~/.local/state/shunter/rollouts]",
    )(command)


class Refusal(click.ClickException):
    """What was given cannot be used; nothing was started."""

    exit_code = 2


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Keep adapters loaded, and roll new versions of models out."""


@main.command()
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    envvar="DYNAMIC_LORA_ROLLOUT_CONFIG",
    default=Path("/config/configmap.yaml"),
    show_default=True,
    help="A vLLMLoRAConfig: which adapters there should be, and should not.",
)
@click.option("--server", help="The one model server to look after.  [default: host and port of the configuration]")
@click.option("--engine", default="vllm", show_default=True, help="Which engine --server is.")
@click.option(
    "--snapshot",
    type=click.Path(path_type=Path),
    help="Look after all endpoints of a pool instead, as the scraper has them here.",
)
@click.option("--pool", default="", help="Of --snapshot this pool only, NAME or NAMESPACE/NAME.")
@click.option("--interval", "interval_s", type=SECONDS, default=5.0, show_default=True, help="Seconds between two looks.")
@click.option("--prune", is_flag=True, help="Unload adapters that the configuration does not name.")
@click.option(
    "--status-host", default="127.0.0.1", show_default=True, help="Address of /status, /metrics and /readyz; :: is every one."
)
@click.option("--status-port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="Their port.")
@click.option("--once", is_flag=True, help="Look once, print what came of it, and end: 0 if all is as it should be.")
@click.option("--dry-run", is_flag=True, help="The same, without loading or unloading anything.")
@reaching_servers
def sync(**options: object) -> None:
    """Keep a server's or a pool's adapters as a file says. The file may change at any time."""
    from shunter.rollout.shell.service import SyncOptions, sync_once, sync_until_cancelled

    access = _access(options)
    wanted = SyncOptions(access=access, **{name: options[name] for name in SyncOptions.__struct_fields__ if name in options})  # pyright: ignore[reportArgumentType]  click has checked them
    if wanted.snapshot and wanted.server:
        raise click.UsageError("--server is one model server, --snapshot those of a pool: give one of them")
    if wanted.pool and not wanted.snapshot:
        raise click.UsageError("--pool is only for --snapshot")
    if options["once"] or options["dry_run"]:
        _log_nothing()
        report, settled = _run(sync_once(wanted))
        click.echo(report)
        sys.exit(0 if settled else UNFINISHED)
    _log()
    _run(sync_until_cancelled(wanted))


@main.command()
@click.option("-f", "--file", "path", type=click.Path(path_type=Path), required=True, help="A Rollout: what is to be done.")
@click.option("--dry-run", is_flag=True, help="Only say what would be done, and what would be waited for now.")
@kept_in
@looking
@reaching_servers
def start(path: Path, state: str | None, *, dry_run: bool, **options: object) -> None:
    """Do what a file says, from the beginning or where it was left.

    Ends with 0 when the new version has all traffic, and with 1 when it went back or halted.
    """
    from shunter.rollout.core.spec import read_rollout
    from shunter.rollout.shell.following import read_file

    def read() -> "Rollout":
        return read_rollout(str(path), read_file(path))

    rollout = _refusing(read)
    if dry_run:
        from shunter.rollout.shell.service import preview

        click.echo(_run(preview(rollout)))
        return
    _work(_store(state, rollout.name), rollout, options)


@main.command()
@click.argument("name", required=False)
@kept_in
def status(name: str | None, state: str | None) -> None:
    """Say what has come of a rollout, or of all of them."""
    from shunter.rollout.core.telling import describe
    from shunter.rollout.shell.store import kept_names

    names = [name] if name else _refusing(lambda: kept_names(state))
    if not names:
        click.echo("there is no rollout; if they are kept elsewhere, say where with --state", err=True)
    for each in names:
        store = _store(state, each)
        record = _refusing(store.load)
        if record is None:
            raise Refusal(f"no rollout is called {each}")
        wish, running = _refusing(store.wish), _refusing(store.held)
        click.echo(describe(record.rollout, record.state, wish, running=running))


@main.command()
@click.argument("name")
@kept_in
def pause(name: str, state: str | None) -> None:
    """Stay at the present share. A version that turns out to be worse still goes back."""
    from shunter.rollout.core.machine import Wish

    _want(name, state, Wish.PAUSE)


@main.command()
@click.argument("name")
@kept_in
@looking
@reaching_servers
def resume(name: str, state: str | None, **options: object) -> None:
    """Go on with a rollout. After a pause, in spite of why it halted, or where nobody is at it any more."""
    from shunter.rollout.core.machine import Wish

    _want(name, state, Wish.RESUME, options)


@main.command()
@click.argument("name")
@kept_in
@looking
@reaching_servers
def rollback(name: str, state: str | None, **options: object) -> None:
    """Go back: all traffic to the old version. The new one is unloaded."""
    from shunter.rollout.core.machine import Wish

    _want(name, state, Wish.ROLLBACK, options)


def _want(name: str, place: str | None, wish: "Wish", options: dict[str, object] | None = None) -> None:
    """Say what is wanted to whoever is at it; if nobody is, and there are ``options`` for it, do it."""
    store = _store(place, name)
    record = _refusing(store.load)
    if record is None:
        raise Refusal(f"no rollout is called {name}")
    if record.state.over:
        raise Refusal(f"{name} is over: {record.state.events[-1].words}")
    _refusing(lambda: store.want(wish))
    if _refusing(store.held):
        click.echo(f"{name}: told whoever is at it: {wish}")
    elif options is None:
        click.echo(f"{name}: nobody is at it; this is for whoever resumes it: {wish}")
    else:
        _work(store, None, options)


def _work(store: "Store", rollout: "Rollout | None", options: dict[str, object]) -> None:
    """Be the one who is at it, a new rollout or the one that is kept, until it is over or halts."""
    from shunter.rollout.shell.service import work

    final = _run(work(store, rollout, _access(options), click.echo, look_s=float(str(options["interval_s"]))))
    if final is None:
        click.echo(f"{store.name} stays as it is; to go on: shunter rollout resume {store.name}", err=True)
        sys.exit(130)
    if final.halted:
        click.echo(
            f"to go on in spite of it, or back: shunter rollout resume {store.name}, shunter rollout rollback {store.name}"
        )
    sys.exit(UNFINISHED if final.halted or final.backwards else 0)


def _access(options: dict[str, object]) -> "Access":
    from shunter.rollout.shell.servers import Access

    return Access(ca_file=options["ca_file"], token_file=options["token_file"], call_s=options["timeout_s"])  # pyright: ignore[reportArgumentType]  click has checked them


def _store(place: str | None, name: str) -> "Store":
    from shunter.rollout.shell.store import open_store

    return _refusing(lambda: open_store(place, name))


def _refusing(doing: "Callable[[], Result]") -> "Result":
    """Do something that may find what was given to be of no use."""
    from shunter.rollout.errors import RolloutError

    try:
        return doing()
    except RolloutError as error:
        raise Refusal(str(error)) from None


def _run(doing: "Coroutine[None, None, Result]") -> "Result":
    import asyncio

    return _refusing(lambda: asyncio.run(doing))


def _log_nothing() -> None:
    """Leave it to a command's output to say everything, once."""
    import logging

    logging.getLogger("shunter.rollout").addHandler(logging.NullHandler())


def _log() -> None:
    import logging

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)-7s %(message)s")
