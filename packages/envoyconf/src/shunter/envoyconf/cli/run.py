"""``run``: an Envoy with what an intent says, in the foreground."""

import click

from shunter.envoyconf.cli.asking import Request, asks, ensure_envoy, tell

__all__ = ["run"]


@click.command(context_settings={"ignore_unknown_options": True})
@asks
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[-- ENVOY ARGUMENTS]")
def run(request: Request, arguments: tuple[str, ...]) -> None:
    """Generate a bootstrap and run an Envoy with it.

    It is held against Envoy's schema before; an Envoy is fetched if there is none.

    What follows -- is for Envoy, such as `-- --log-level debug`. Signals are passed on. The exit code is 1 if the schema
    refuses the bootstrap or there is no Envoy to be had, 2 if the intent cannot be used, else Envoy's own.
    """
    from shunter.envoyconf.core.documents import load_documents
    from shunter.envoyconf.core.render import render
    from shunter.envoyconf.core.validation import check_schema
    from shunter.envoyconf.errors import EnvoyRefusedError, IntentError
    from shunter.envoyconf.shell.launch import check_places, launch

    started = [each for each in request.output().documents if "kind" not in each]  # rewrites are for the picker
    if len(started) != 1:
        raise IntentError(f"target {request.target} is not one file that an Envoy is started with; use envoy-static or xds")
    text = render(started[0])
    verdict = check_schema(load_documents(text, "bootstrap"), request.settings().envoy_version)
    if verdict.errors:
        raise EnvoyRefusedError("\n".join(verdict.errors))
    binary = ensure_envoy(request.envoy_version)
    check_places(started[0])
    tell(f"running {binary}")
    raise SystemExit(launch(text, binary, arguments))
