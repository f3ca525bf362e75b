"""`manifests`: print an exam as a Job for a cluster."""

import re
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import click

from shunter.conformance.cli.files import read_file
from shunter.conformance.cli.servers import run
from shunter.conformance.errors import UsageError

__all__ = ["manifests"]

_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")

# Only the Job knows what a variable says.
_VARIABLE = re.compile(r"\$\{\w+\}")


@click.command()
@click.option("--image", required=True, metavar="IMAGE", help="An image with shunter-conformance, and kubectl for --container.")
@click.option("--name", default="shunter-exam", show_default=True, metavar="NAME", help="What the Job is called.")
@click.option("--secret", default="", metavar="NAME", help="A Secret of the namespace, for what a --header names as ${KEY}.")
@click.argument("words", metavar="-- RUN-ARGS...", nargs=-1, type=click.UNPROCESSED)
def manifests(image: str, name: str, secret: str, words: tuple[str, ...]) -> None:
    """Print a Job that does `run RUN-ARGS` inside a cluster. It is for `kubectl create -f -`.

    Files that the arguments name come with it. With --container it may start and remove a Pod of its namespace. It prints the
    exam and then the report as NDJSON; `kubectl logs job/NAME | grep "^{" > run.ndjson`, and `report` makes the others of it.
    """
    import yaml

    from shunter.conformance.core.manifests import FILES, exam_job

    if not _NAME.fullmatch(name):
        raise UsageError(f"--name {name!r}: Kubernetes wants lower-case letters, digits and -, at most 63")
    wishes = run.make_context("run", list(words)).params
    if wishes["reports"]:
        raise UsageError("--report: a Job prints its report; make others of it by `report`")
    if wishes["kube"]:
        raise UsageError(f"--kube {wishes['kube']}: inside a cluster there is only that cluster")
    if not secret and any(_VARIABLE.search(header) for header in wishes["headers"]):
        raise UsageError("--header: a Job does not have your environment; name a Secret that has the key, by --secret")
    starts_servers = bool(wishes["container"])
    inside = [*(["--kube"] if starts_servers and wishes["kube"] is None else []), *words]
    with redirect_stdout(StringIO()):  # whatever is wrong with the wishes is better said here than in the cluster
        run.main(["--dry-run", *(_VARIABLE.sub("there", word) for word in inside)], standalone_mode=False)
    files: dict[str, str] = {}
    for path in (value for value in wishes.values() if isinstance(value, Path)):
        key = f"{len(files)}-{re.sub(r'[^-._a-zA-Z0-9]', '_', path.name)}"  # a ConfigMap allows no more
        files[key] = read_file(path)
        inside = [_moved(word, str(path), f"{FILES}/{key}") for word in inside]
    objects = exam_job(name, image, inside, files=files, starts_servers=starts_servers, secret=secret)
    click.echo(yaml.safe_dump_all(objects, sort_keys=False, width=120, allow_unicode=True), nl=False)


def _moved(word: str, path: str, to: str) -> str:
    """Return a word of a command that may name a file, with the file where it is inside."""
    option, equals, value = word.partition("=")
    return to if word == path else option + equals + to if value == path else word
