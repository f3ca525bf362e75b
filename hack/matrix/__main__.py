"""Try everything that is generated on everything it is generated for; write the rows and the page."""

import sys
from pathlib import Path

import click
from hack.matrix import accepted, live, page
from hack.matrix.rows import Rows, Suite

from shunter.envoyconf.shell import envoy

ROWS = Path("build/envoyconf-matrix.json")

# A suite has a module here, and takes down its rows itself.
SUITES: dict[str, Suite] = {"accepted": accepted.run, "live": live.run}


@click.command()
@click.option("--only", multiple=True, type=click.Choice([*SUITES]), help="Suites to run; all if none is given.")
@click.option("--version", "versions", multiple=True, help="Envoys to run on; all that are here if none is given.")
@click.option("-o", "--output", type=click.Path(path_type=Path), default=ROWS, show_default=True, help="Where the rows go.")
def main(only: tuple[str, ...], versions: tuple[str, ...], output: Path) -> None:
    """Run the matrix; exit with 1 if a check failed."""
    versions = versions or tuple(version for version in reversed(envoy.WHEELS) if envoy.find(version))
    for version in envoy.WHEELS:
        if not envoy.find(version):
            click.echo(f"not here: shunter envoyconf fetch-envoy --version {version}", err=True)
    rows = Rows(click.echo)
    for name in only or SUITES:
        SUITES[name](rows.record, versions)
    rows.write(output)
    if not only:
        page.write(rows)
    click.echo(f"{len(list(rows))} checks, {len(rows.failed)} failed: {output}")
    for row in rows.failed:
        click.echo(f"{row.target} {row.envoy_version} {row.profile}: {row.check}: {row.detail}", err=True)
    sys.exit(bool(rows.failed))


if __name__ == "__main__":
    main()
