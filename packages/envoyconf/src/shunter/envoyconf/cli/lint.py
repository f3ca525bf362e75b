"""``lint``: what is wrong with anybody's Envoy bootstraps, Kubernetes manifests and intents, and what comes of it."""

import os
from collections.abc import Iterable, Mapping
from difflib import unified_diff
from functools import partial
from typing import TYPE_CHECKING, Literal

import click

from shunter.envoyconf.cli.asking import chosen_target, is_piped_in, plain_errors, show, tell

if TYPE_CHECKING:
    from shunter.envoyconf.core.documents import Document
    from shunter.envoyconf.core.lint.correct import Look
    from shunter.envoyconf.core.lint.report import Report
    from shunter.envoyconf.core.lint.rule import Rule
    from shunter.envoyconf.core.output import Settings
    from shunter.envoyconf.core.targets import Target

__all__ = ["lint", "read_sources", "show_difference"]


@click.command()
@click.option(
    "-f",
    "--file",
    "sources",
    multiple=True,
    metavar="FILE|DIR|-",
    help="Envoy bootstraps, Kubernetes manifests, intents; all are examined together.  [default: what is piped in]",
)
@click.option("-n", "--namespace", default="default", show_default=True, help="Namespace of objects that name none.")
@click.option(
    "-o", "form", type=click.Choice(["text", "json", "sarif"]), default="text", show_default=True, help="Form of the report."
)
@click.option(
    "--fail-on",
    type=click.Choice(["error", "warning", "never"]),
    default="error",
    show_default=True,
    help="From which severity on the exit code is 1.",
)
@click.option("--select", metavar="CODES", help="Only these rules, such as E02,E10.")
@click.option("--ignore", metavar="CODES", help="All rules but these.")
@click.option("--envoy-version", help="The Envoy that is to run it, such as 1.38.  [default: the newest that is known]")
@click.option("--target", default="envoy-static", show_default=True, help="What is generated from an intent, to be examined.")
@click.option("--fix", is_flag=True, help="Correct in the files what is mechanical; everything else in them stays as it is.")
@click.option("--diff", is_flag=True, help="With --fix: show what would be corrected, and leave the files alone.")
@click.option("--list", "listing", is_flag=True, help="List the rules.")
def lint(
    sources: tuple[str, ...],
    namespace: str,
    form: Literal["text", "json", "sarif"],
    fail_on: Literal["error", "warning", "never"],
    select: str | None,
    ignore: str | None,
    envoy_version: str | None,
    target: str,
    *,
    fix: bool,
    diff: bool,
    listing: bool,
) -> None:
    """Say what is wrong with a gateway's configuration.

    It reads Envoy bootstraps, Kubernetes manifests and intents, and says what comes of each mistake and what to do.

    Exit codes: 0 nothing of the severity of --fail-on; 1 something; 2 usage, or a file that cannot be read.
    """
    from shunter.envoyconf.core.lint.envoy.view import view
    from shunter.envoyconf.core.lint.examine import examine
    from shunter.envoyconf.core.lint.report import Report, summary
    from shunter.envoyconf.core.lint.suppress import sort_out, suppressions
    from shunter.envoyconf.core.output import Settings
    from shunter.envoyconf.core.versions import DEFAULT_VERSION, parse_version
    from shunter.envoyconf.errors import IntentError

    with plain_errors():
        rules = _chosen(select, ignore)
        if listing:
            show("".join(f"{rule.code}  {rule.title}\n" for rule in rules))
            return
        if diff and not fix:
            raise click.UsageError("--diff shows what --fix would do: give both")
        version = parse_version(envoy_version) if envoy_version else DEFAULT_VERSION
        look = partial(examine, envoy_version=version, rules=rules, namespace=namespace)
        texts = read_sources(sources, "examine")
        if fix:
            texts = _fix(texts, look, write=not diff)
            if diff:
                return
        documents = [*_documents(texts, chosen_target(target), Settings(envoy_version=version))]
        if not documents:  # a pipe from a command that failed
            raise IntentError(f"{', '.join(texts)}: nothing is there to examine")
        if not (any(each.kind for each in documents) or view(documents)):
            tell(f"Note: nothing in {', '.join(texts)} is an Envoy's configuration, a Kubernetes object or an intent")
        comments = [each for file, text in texts.items() for each in suppressions(text, file)]
        report = Report(*sort_out(look(documents), comments))
    show(_formed(report, form))
    tell(f"{summary(report)}, in {len(texts)} file{'' if len(texts) == 1 else 's'}")
    worst = report.worst()
    if worst and fail_on in ("warning", worst.value):
        raise SystemExit(1)


def read_sources(sources: tuple[str, ...], purpose: str) -> dict[str, str]:
    """Return the texts by file, or what is piped in if no file is named."""
    from shunter.envoyconf.shell.texts import read_texts

    if not sources and not is_piped_in():
        raise click.UsageError(f"nothing to {purpose}: give -f FILE, or pipe something in")
    return read_texts(sources or ("-",))


def show_difference(file: str, before: str, after: str, *, aside: bool = False) -> None:
    """Print how a text differs from what it was; aside, on standard error, where the output is something else."""
    lines = unified_diff(before.splitlines(), after.splitlines(), file, file, lineterm="")
    click.echo("".join(f"{line}\n" for line in lines), nl=False, err=aside)


def _formed(report: "Report", form: Literal["text", "json", "sarif"]) -> str:
    from importlib.metadata import version

    from shunter.envoyconf.core.lint.report import as_json, as_sarif, as_text

    if form == "sarif":
        return as_sarif(report, version("shunter-envoyconf"))
    return as_json(report) if form == "json" else as_text(report)


def _chosen(select: str | None, ignore: str | None) -> "list[Rule]":
    """Return the rules that are asked for, by number."""
    from shunter.envoyconf.core.lint import RULES
    from shunter.envoyconf.errors import IntentError

    known = {rule.code: rule for rule in sorted(RULES, key=lambda rule: int(rule.code[1:]))}
    wanted, unwanted = (
        [code.strip().upper() for code in codes.split(",")] if codes is not None else [] for codes in (select, ignore)
    )
    wanted = list(known) if select is None else wanted
    if unknown := [code for code in (*wanted, *unwanted) if code not in known]:
        raise IntentError(f"there is no rule {unknown[0]!r}; --list names all")
    return [rule for code, rule in known.items() if code in wanted and code not in unwanted]


def _documents(texts: Mapping[str, str], target: "Target", settings: "Settings") -> "Iterable[Document]":
    """Yield the documents of all texts; instead of an intent, what is generated from it."""
    from shunter.envoyconf.core.documents import load_documents
    from shunter.envoyconf.core.render import render
    from shunter.envoyconf.core.sources import assemble, is_intent

    for file, text in texts.items():
        read = load_documents(text, file)
        if not any(is_intent(each) for each in read):
            yield from read
            continue
        for artefact in assemble({file: text}, os.environ).generate(target, settings).artefacts:
            for each in artefact.documents:
                yield from load_documents(render(each), f"{file} → {target.value}/{artefact.name}")


def _fix(texts: Mapping[str, str], look: "Look", *, write: bool) -> dict[str, str]:
    """Correct files, or show what would be corrected; return the texts as they are then. What was piped in stays as it is."""
    from shunter.envoyconf.core.lint.correct import correct
    from shunter.envoyconf.shell.texts import STDIN, replace_text

    corrected, done = correct(texts, look)
    for file, text in corrected.items():
        if text == texts[file]:
            continue
        if write and file != STDIN:
            replace_text(file, text)
        else:
            show_difference(file, texts[file], text, aside=write)
    for rule, finding in done:
        is_done = write and finding.document.file != STDIN
        tell(f"{rule.code}: {'corrected' if is_done else 'would be corrected'}: {finding.remedy}")
    return {file: texts[file] if file == STDIN else text for file, text in corrected.items()}
