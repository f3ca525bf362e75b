"""Try everything that is generated on everything it is generated for; write the rows and the page."""

import importlib
import os
import pkgutil
import sys
from pathlib import Path

import click
from hack.matrix import page
from hack.matrix.rows import Rows, Suite

from shunter.envoyconf.shell import envoy

MOST_CHARACTERS = 500  # of an error
ROWS = Path("build/envoyconf-matrix.json")


def suites() -> dict[str, Suite]:
    """Return the suites by their modules here: those that have a function of that name."""
    names = [each.name for each in pkgutil.iter_modules([str(Path(__file__).parent)]) if each.name != "__main__"]
    modules = {name: importlib.import_module(f"hack.matrix.{name}") for name in sorted(names)}
    return {name: module.suite for name, module in modules.items() if hasattr(module, "suite")}


@click.command()
@click.option("--only", multiple=True, metavar="NAME", help="Suites to run; all if none is given.")
@click.option("--version", "versions", multiple=True, help="Envoys to run on; all that are here if none is given.")
@click.option("-o", "--output", type=click.Path(path_type=Path), default=ROWS, show_default=True, help="Where the rows go.")
def main(only: tuple[str, ...], versions: tuple[str, ...], output: Path) -> None:
    """Run the matrix; exit with 1 if a check failed. The page is written when nothing was left out."""
    if "ENVOY_PATH" in os.environ:
        raise click.UsageError("ENVOY_PATH is set: its Envoy would be taken for every version; unset it")
    rows, found = Rows(click.echo), suites()
    for name in only:
        if name not in found:
            raise click.BadParameter(f"{name!r} is not one of {', '.join(found)}", param_hint="--only")
    for version in versions:
        if not envoy.find(version):
            raise click.BadParameter(f"no Envoy {version}; here may be {', '.join(envoy.WHEELS)}", param_hint="--version")
    missing = [version for version in envoy.WHEELS if not envoy.find(version)]
    for version in missing:
        click.echo(f"not here: shunter envoyconf fetch-envoy --version {version}", err=True)
    is_whole = not (only or versions or missing)
    versions = versions or tuple(version for version in reversed(envoy.WHEELS) if version not in missing)
    for name in only or found:
        try:
            found[name](rows.record, versions)
        except Exception as error:  # noqa: BLE001 # one that breaks down must not take the others' rows with it
            words = f"{type(error).__name__}: {str(error)[:MOST_CHARACTERS]}"
            rows.record(target=name, envoy_version="-", profile="-", check="the suite came to its end", ok=False, detail=words)
        rows.write(output)
    if is_whole:
        page.write(rows)
    click.echo(f"{len(list(rows))} checks, {len(rows.failed)} failed: {output}")
    for row in rows.failed:
        click.echo(f"{row.target} {row.envoy_version} {row.profile}: {row.check}: {row.detail}", err=True)
    sys.exit(bool(rows.failed))


if __name__ == "__main__":
    main()
