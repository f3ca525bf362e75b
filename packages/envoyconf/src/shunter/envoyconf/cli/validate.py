"""``validate``: everything that can be known of a configuration before it is in force, layer by layer."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import click

from shunter.envoyconf.cli.asking import Request, asks, chosen_target, ensure_envoy, tell, warn

if TYPE_CHECKING:
    from shunter.envoyconf.core.documents import Document
    from shunter.envoyconf.core.versions import Version

__all__ = ["validate"]


@click.command()
@asks
@click.option("--require-envoy", is_flag=True, help="Fetch an Envoy if there is none, and fail without one.")
def validate(request: Request, *, require_envoy: bool) -> None:
    """Hold a configuration against schema, linter and Envoy.

    It may be an intent, or any Envoy bootstrap or Kubernetes manifest; the Envoy is a real one.

    Says which of the three looked at it. Exit codes: 0 nothing is wrong; 1 something is; 2 it cannot be read.
    """
    texts = request.texts()
    with TemporaryDirectory(prefix="shunter-envoyconf-") as scratch:
        refused = _refused(request, texts, Path(scratch), require_envoy=require_envoy)
    if refused:
        raise SystemExit(1)


def _refused(request: Request, texts: dict[str, str], scratch: Path, *, require_envoy: bool) -> bool:
    """Ask everybody, and return whether anybody refuses anything. What Envoy is to watch is put into ``scratch``."""
    from shunter.envoyconf.core.validation import check_schema, parts
    from shunter.envoyconf.core.versions import DEFAULT_VERSION, OLDEST_VERIFIED

    documents = _documents(request, texts, scratch)
    version = request.settings().envoy_version
    for_envoy = [each for each in documents if any(parts(each))]
    refused = False
    if for_envoy:
        verdict = check_schema(for_envoy, version)
        warn(verdict.warnings)
        for error in verdict.errors:
            tell(f"Error: {error}")
        refused = bool(verdict.errors)
        known = max(OLDEST_VERIFIED, min(version, DEFAULT_VERSION))
        nearest = "" if known == version else f", the nearest to {version} that is known"
        mistakes = f"{_count(len(verdict.errors), 'mistake')} in {_count(len(for_envoy), 'document')}"
        tell(f"schema of Envoy {known}{nearest}: {mistakes}")
    if any(each.kind for each in documents):
        tell("schema of Kubernetes: not asked; kubectl apply --dry-run=server does")
    refused = _lint(documents, texts, version, request.namespace) or refused
    bootstraps = [*_bootstraps(documents, texts)]
    if bootstraps and not refused:
        refused = _ask_envoy(bootstraps, request.envoy_version, require=require_envoy)
    return refused


def _documents(request: Request, texts: dict[str, str], scratch: Path) -> "list[Document]":
    """Return the documents of all sources; of an intent those that are generated from it."""
    from shunter.envoyconf.core.documents import load_documents
    from shunter.envoyconf.core.forms import as_files
    from shunter.envoyconf.core.sources import is_intent
    from shunter.envoyconf.errors import IntentError
    from shunter.envoyconf.shell.texts import write_texts

    documents = [each for file, text in texts.items() for each in load_documents(text, file)]
    stated = sorted({each.file for each in documents if is_intent(each)})
    found = [each for each in documents if each.file not in stated]
    for file in stated:
        target = chosen_target(request.target)
        files = as_files(request.output({file: texts[file]}, scratch))
        write_texts(scratch, files)
        for name, text in files.items():
            found += load_documents(text, f"{file} → {target.value}/{name}")
    if not found:  # a pipe from a command that failed
        raise IntentError(f"{', '.join(texts)}: nothing is there that could be right or wrong")
    return found


def _count(number: int, thing: str) -> str:
    return f"{number or 'no'} {thing}{'' if number == 1 else 's'}"


def _lint(documents: "list[Document]", texts: dict[str, str], version: "Version", namespace: str) -> bool:
    """Tell what the linter finds; return whether any of it is an error."""
    from shunter.envoyconf.core.lint.examine import examine
    from shunter.envoyconf.core.lint.report import Report, as_text, summary
    from shunter.envoyconf.core.lint.rule import Severity
    from shunter.envoyconf.core.lint.suppress import sort_out, suppressions

    reasons = [each for file, text in texts.items() for each in suppressions(text, file)]
    report = Report(*sort_out(examine(documents, version, namespace=namespace), reasons))
    click.echo(as_text(report), nl=False, err=True)
    tell(f"lint: {summary(report)}")
    return report.worst() is Severity.ERROR


def _bootstraps(documents: "list[Document]", texts: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Yield file and text of each bootstrap; alone in a file as written there: Envoy reads less of YAML than we do."""
    from shunter.envoyconf.core.render import render
    from shunter.envoyconf.core.validation import is_bootstrap

    files = [each.file for each in documents]
    for each in documents:
        if is_bootstrap(each):
            alone = each.file in texts and files.count(each.file) == 1 and not each.file.endswith(".json")
            yield each.file, texts[each.file] if alone else render(each.body)


def _ask_envoy(bootstraps: list[tuple[str, str]], version: str | None, *, require: bool) -> bool:
    """Ask the real Envoy about the text of each bootstrap, which is of a file; return whether it refuses one."""
    from shunter.envoyconf.errors import EnvoyRefusedError
    from shunter.envoyconf.shell import envoy

    binary = ensure_envoy(version) if require else envoy.find(version)
    if binary is None:
        tell(f"Envoy: not asked, there is none here; shunter envoyconf fetch-envoy{f' --version {version}' if version else ''}")
        return False
    refused = False
    for file, text in bootstraps:
        try:
            envoy.validate(text, binary)
        except EnvoyRefusedError as error:
            tell(f"Error: {file}: {error}")
            refused = True
    tell(f"Envoy: {'refused' if refused else 'accepted'} by {binary}")
    return refused
