"""``validate``: everything that can be known of a configuration before it is in force, layer by layer."""

from typing import TYPE_CHECKING

import click

from shunter.envoyconf.cli.asking import Request, asks, chosen_target, ensure_envoy, tell, warn

if TYPE_CHECKING:
    from pathlib import Path

    from shunter.envoyconf.core.documents import Document
    from shunter.envoyconf.core.versions import Version

__all__ = ["validate"]


@click.command()
@asks
@click.option("--require-envoy", is_flag=True, help="Fetch an Envoy if there is none, and fail without one.")
def validate(request: Request, *, require_envoy: bool) -> None:
    """Hold an intent, or any Envoy bootstrap or Kubernetes manifest, against Envoy's schema, the linter and the real Envoy.

    Says which of the three looked at it. Exit codes: 0 nothing is wrong; 1 something is; 2 it cannot be read.
    """
    from shunter.envoyconf.core.validation import check_schema

    documents = _documents(request)
    version = request.settings().envoy_version
    configurations = [each for each in documents if not each.kind]
    refused = False
    if configurations:
        verdict = check_schema(configurations, version)
        warn(verdict.warnings)
        for error in verdict.errors:
            tell(f"Error: {error}")
        refused = bool(verdict.errors)
        tell(
            f"schema of Envoy {version}: {_count(len(verdict.errors), 'mistake')} in {_count(len(configurations), 'document')}"
        )
    if len(documents) > len(configurations):
        tell("schema of Kubernetes: not asked; kubectl apply --dry-run=server does")
    refused = _lint(documents, version, request.namespace) or refused
    if configurations and not refused:
        refused = _ask_envoy(configurations, request.envoy_version, require=require_envoy)
    if refused:
        raise SystemExit(1)


def _documents(request: Request) -> "list[Document]":
    """Return the documents of all sources; of an intent those that are generated from it."""
    from shunter.envoyconf.core.documents import load_documents
    from shunter.envoyconf.core.forms import as_files
    from shunter.envoyconf.core.sources import is_intent

    texts = request.texts()
    documents = [each for file, text in texts.items() for each in load_documents(text, file)]
    stated = sorted({each.file for each in documents if is_intent(each)})
    found = [each for each in documents if each.file not in stated]
    for file in stated:
        target = chosen_target(request.target)
        for name, text in as_files(request.output({file: texts[file]})).items():
            found += load_documents(text, f"{file} → {target.value}/{name}")
    return found


def _count(number: int, thing: str) -> str:
    return f"{number or 'no'} {thing}{'' if number == 1 else 's'}"


def _lint(documents: "list[Document]", version: "Version", namespace: str) -> bool:
    """Tell what the linter finds; return whether any of it is an error."""
    from shunter.envoyconf.core.lint.examine import examine
    from shunter.envoyconf.core.lint.report import Report, as_text, summary
    from shunter.envoyconf.core.lint.rule import Severity

    report = Report(examine(documents, version, namespace=namespace))
    click.echo(as_text(report), nl=False, err=True)
    tell(f"lint: {summary(report)}")
    return report.worst() is Severity.ERROR


def _ask_envoy(documents: "list[Document]", version: str | None, *, require: bool) -> bool:
    """Ask the real Envoy about each bootstrap; return whether it refuses one."""
    from shunter.envoyconf.core.render import render
    from shunter.envoyconf.core.validation import is_bootstrap
    from shunter.envoyconf.errors import EnvoyRefusedError
    from shunter.envoyconf.shell import envoy

    bootstraps = [each for each in documents if is_bootstrap(each)]
    full = envoy.full_version(version) if version else None
    binary: Path | None = ensure_envoy(full) if require else envoy.find(full)
    if binary is None:
        tell(f"Envoy: not asked, there is none here; shunter envoyconf fetch-envoy{f' --version {full}' if full else ''}")
        return False
    refused = False
    for each in bootstraps:
        try:
            envoy.validate(render(each.body), binary)
        except EnvoyRefusedError as error:
            tell(f"Error: {each.file}: {error}")
            refused = True
    tell(f"Envoy: {'refused' if refused else 'accepted'} by {binary}")
    return refused
