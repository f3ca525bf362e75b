"""``generate``: one intent becomes the configuration of a gateway."""

from pathlib import Path
from typing import cast

import click

from shunter.envoyconf.cli.asking import Request, asks, show, tell

__all__ = ["generate"]


@click.command()
@asks
@click.option(
    "-o",
    "form",
    default="yaml",
    show_default=True,
    metavar="yaml|json|dir=DIR|kustomize=DIR",
    help="One text on standard output, or files in a directory; with kustomize also a kustomization over them.",
)
def generate(request: Request, form: str) -> None:
    """Print what a gateway is to be given for an intent."""
    import asyncio

    from shunter.envoyconf.core.forms import Form, as_files, as_text
    from shunter.envoyconf.core.kube import kustomize
    from shunter.envoyconf.core.render import render
    from shunter.envoyconf.shell.directory import Directory
    from shunter.envoyconf.shell.texts import write_texts

    kind, _, place = form.partition("=")
    if kind in {"yaml", "json"} and not place:
        output = request.output()
        show(as_text(output, cast("Form", kind)))
        if any("kind" in each for each in output.documents):
            tell("apply with: kubectl apply --server-side --field-manager=shunter -f -")
        return
    if kind not in {"dir", "kustomize"} or not place:
        raise click.BadParameter(f"{form!r} is not yaml, json, dir=DIR or kustomize=DIR", param_hint="-o")
    output = request.output(directory=Path(place))
    files = as_files(output)
    if kind == "kustomize":
        files[kustomize.FILE] = render(kustomize.kustomization(output))
    if request.target == "envoy-fs":  # an Envoy may be watching
        asyncio.run(Directory(Path(place)).update(output))
    else:
        write_texts(Path(place), files)
    tell(f"wrote {', '.join(files)} to {place}")
