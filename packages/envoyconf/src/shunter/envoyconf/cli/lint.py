"""``lint``: what is wrong with anybody's Envoy bootstraps, Kubernetes manifests and intents, and what comes of it."""

import sys
from collections.abc import Iterable, Mapping
from difflib import unified_diff
from typing import TYPE_CHECKING, Literal

import click

if TYPE_CHECKING:
    from shunter.envoyconf.core.documents import Document
    from shunter.envoyconf.core.lint.correct import Look
    from shunter.envoyconf.core.lint.rule import Finding, Rule
    from shunter.envoyconf.core.output import Settings
    from shunter.envoyconf.core.targets import Target

__all__ = ["lint"]


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
@click.option("--target", help="What is generated from an intent, to be examined.  [default: envoy-static]")
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
    target: str | None,
    *,
    fix: bool,
    diff: bool,
    listing: bool,
) -> None:
    """Say what is wrong with Envoy bootstraps, Kubernetes manifests and intents, what comes of it, and what to do.

    Exit codes: 0 nothing of the severity of --fail-on; 1 something; 2 usage, or a file that cannot be read.
    """
    from shunter.envoyconf.core.lint.examine import examine
    from shunter.envoyconf.core.lint.report import Report, as_json, as_sarif, as_text, summary
    from shunter.envoyconf.core.lint.suppress import sort_out, suppressions
    from shunter.envoyconf.core.output import Settings
    from shunter.envoyconf.core.versions import DEFAULT_VERSION, parse_version
    from shunter.envoyconf.errors import IntentError
    from shunter.envoyconf.shell.texts import read_texts

    try:
        rules = _chosen(select, ignore)
        if listing:
            click.echo("".join(f"{rule.code}  {rule.title}\n" for rule in rules), nl=False)
            return
        if not sources and sys.stdin.isatty():
            raise click.UsageError("nothing to examine: give -f FILE, or pipe something in")
        if diff and not fix:
            raise click.UsageError("--diff shows what --fix would do: give both")
        version = parse_version(envoy_version) if envoy_version else DEFAULT_VERSION
        texts = read_texts(sources or ("-",))

        def look(documents: Iterable["Document"]) -> "list[tuple[Rule, Finding]]":
            return examine(documents, version, rules, namespace)

        if fix:
            texts = _fix(texts, look, write=not diff)
            if diff:
                return
        documents = _documents(texts, _target(target), Settings(envoy_version=version))
        comments = [each for file, text in texts.items() for each in suppressions(text, file)]
        report = Report(*sort_out(look(documents), comments))
    except IntentError as error:
        click.echo(f"Error: {error}", err=True)
        raise SystemExit(2) from None
    if form == "text":
        click.echo(as_text(report), nl=False)
    elif form == "json":
        click.echo(as_json(report), nl=False)
    else:
        from importlib.metadata import version as installed

        click.echo(as_sarif(report, installed("shunter-envoyconf")), nl=False)
    click.echo(f"{summary(report)}, in {len(texts)} file{'' if len(texts) == 1 else 's'}", err=True)
    worst = report.worst()
    if worst and fail_on in ("warning", worst.value):
        raise SystemExit(1)


def _chosen(select: str | None, ignore: str | None) -> "list[Rule]":
    """Return the rules that are asked for, by code."""
    from shunter.envoyconf.core.lint import RULES
    from shunter.envoyconf.errors import IntentError

    known = {rule.code: rule for rule in sorted(RULES, key=lambda rule: int(rule.code[1:]))}
    wanted = select.split(",") if select is not None else list(known)
    unwanted = ignore.split(",") if ignore is not None else []
    if unknown := [code for code in (*wanted, *unwanted) if code not in known]:
        raise IntentError(f"there is no rule {unknown[0]!r}; --list names all")
    return [rule for code, rule in known.items() if code in wanted and code not in unwanted]


def _target(name: str | None) -> "Target":
    from shunter.envoyconf.core.generate import MAKERS
    from shunter.envoyconf.core.targets import Target
    from shunter.envoyconf.errors import IntentError

    known = {target.value: target for target in MAKERS}
    if name is not None and name not in known:
        raise IntentError(f"there is no target {name!r}; targets: {', '.join(known)}")
    return known[name] if name else Target.ENVOY_STATIC


def _documents(texts: Mapping[str, str], target: "Target", settings: "Settings") -> "list[Document]":
    """Return the documents of all texts; an intent is what is generated from it."""
    from shunter.envoyconf.core.documents import load_documents
    from shunter.envoyconf.core.generate import generate
    from shunter.envoyconf.core.reading import load_intent
    from shunter.envoyconf.core.render import render

    documents: list[Document] = []
    for file, text in texts.items():
        read = load_documents(text, file)
        if any(_is_intent(each) for each in read):
            for artefact in generate(load_intent(text), target, settings).artefacts:
                place = f"{file}:{target.value}/{artefact.name}"
                for each in artefact.documents:
                    documents += load_documents(render(each), place)
        else:
            documents += read
    return documents


def _is_intent(document: "Document") -> bool:
    return "pools" in document.body and not document.kind


def _fix(texts: Mapping[str, str], look: "Look", *, write: bool) -> dict[str, str]:
    from shunter.envoyconf.core.lint.correct import correct
    from shunter.envoyconf.shell.texts import STDIN, replace_text

    corrected, done = correct(texts, look)
    for file, text in corrected.items():
        if text == texts[file]:
            continue
        if write and file != STDIN:
            replace_text(file, text)
        else:
            lines = unified_diff(texts[file].splitlines(), text.splitlines(), file, file, lineterm="")
            click.echo("".join(f"{line}\n" for line in lines), nl=False)
    for rule, finding in done:
        click.echo(f"{rule.code}: {'corrected' if write else 'would be corrected'}: {finding.remedy}", err=True)
    return corrected
