"""`gateway`: examine a gateway, as the pickers and model servers behind it."""

from pathlib import Path

import click

from shunter.conformance.cli.exams import Wishes, exam_options, follow

__all__ = ["gateway"]

# Where a gateway is that is to be explained only, and told nothing else.
USUAL_URL = "http://127.0.0.1:8080"


@click.command()
@click.argument("url", required=False)
@click.option(
    "--profile",
    default="generic",
    show_default=True,
    metavar="NAME",
    help="What kind of gateway it is, such as shunter-lean, shunter-full or envoy-gateway-lean.",
)
@click.option("--open-picker", metavar="HOST:PORT", help="Where the gateway looks for the picker of the pool that fails open.")
@click.option("--open-servers", metavar="HOST:PORT,…", help="Where it looks for the model servers of that pool.")
@click.option("--close-picker", metavar="HOST:PORT", help="The picker of the pool that fails closed.")
@click.option("--close-servers", metavar="HOST:PORT,…", help="The model servers of that pool.")
@click.option(
    "--patience", type=click.FloatRange(min=0.01), default=1.0, show_default=True, help="A factor on every time limit."
)
@click.option(
    "--ca-file",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Who signed its certificate (PEM), beside whom the machine trusts.",
)
@click.option("--insecure", is_flag=True, help="Take any certificate.")
@click.option("--explain-setup", is_flag=True, help="Only print what the gateway is to be told, as an intent of envoyconf.")
@exam_options
def gateway(
    wishes: Wishes,
    url: str | None,
    profile: str,
    open_picker: str | None,
    open_servers: str | None,
    close_picker: str | None,
    close_servers: str | None,
    patience: float,
    ca_file: Path | None,
    insecure: bool,
    explain_setup: bool,
) -> None:
    """Examine the gateway at URL.

    It has been told of two pools (--explain-setup prints them, for a gateway at URL or at port 8080), whose pickers and model
    servers the exam itself is while it lasts, at the addresses given.

    Exit code: 0 nothing is newly broken, 1 a MUST failed, 2 wrong usage, 3 the gateway cannot be reached.
    """
    from urllib.parse import urlsplit

    import msgspec

    from shunter.conformance.core.events import Side
    from shunter.conformance.core.profile import named
    from shunter.conformance.sections.gateways import CASES, PROFILES
    from shunter.conformance.sections.gateways.setup import DEFAULT, check_places, intent
    from shunter.conformance.sections.gateways.trial import Pool
    from shunter.conformance.shell.access import Access, trust
    from shunter.conformance.shell.gateways.exam import examine
    from shunter.conformance.shell.wire import base_url

    stated = {Pool.OPEN: (open_picker, open_servers), Pool.CLOSE: (close_picker, close_servers)}
    places = {
        pool: msgspec.structs.replace(
            usual,
            picker=stated[pool][0] or usual.picker,
            servers=tuple((stated[pool][1] or ",".join(usual.servers)).split(",")),
        )
        for pool, usual in DEFAULT.items()
    }
    kind = named(PROFILES, profile)
    if explain_setup:
        check_places(places)
        parts = urlsplit(base_url(url or USUAL_URL))
        click.echo(intent(places, kind, parts.port or (443 if parts.scheme == "https" else 80)), nl=False)
        return
    if url is None:
        raise click.UsageError("Missing argument 'URL': where the gateway is")
    cases = wishes.choose(CASES)
    exam = examine(
        url,
        places=places,
        cases=cases,
        profile=kind,
        waivers=wishes.waivers,
        timeout_s=wishes.timeout_s,
        patience=patience,
        access=Access(tls=trust(ca_file, insecure=insecure)),
        tries=wishes.tries,
    )
    follow(exam, cases, wishes, Side.GATEWAY)
