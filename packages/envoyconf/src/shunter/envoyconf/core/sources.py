"""Texts become one intent, whether they state it or are Kubernetes manifests that amount to one."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches

import msgspec

from shunter.envoyconf.core.documents import Document, load_documents
from shunter.envoyconf.core.generate import generate
from shunter.envoyconf.core.intent import Intent
from shunter.envoyconf.core.kube.reading import intent_from
from shunter.envoyconf.core.output import Output, Settings
from shunter.envoyconf.core.reading import load_statement, place_of, read_intent
from shunter.envoyconf.core.targets import Target
from shunter.envoyconf.errors import IntentError

__all__ = ["Assembled", "assemble", "is_intent"]


class Assembled(msgspec.Struct, frozen=True):
    """The intent, and what of the manifests it has no word for; or the document that states it."""

    intent: Intent
    notes: tuple[str, ...] = ()
    statement: Document | None = None

    def generate(self, target: Target, settings: Settings | None = None) -> Output:
        """Return what a gateway is to be given; raise IntentError, with file and line, for what it cannot have."""
        try:
            return generate(self.intent, target, settings)
        except IntentError as error:
            if self.statement is None:
                raise
            raise IntentError(place_of(str(error), self.statement)) from None


# Of all fields of an intent, a bootstrap has this one, too.
FIELDS = {field.encode_name for field in msgspec.structs.fields(Intent)} - {"admin"}


def is_intent(document: Document) -> bool:
    """Whether a document states an intent, rightly or wrongly: by a field that nothing else has, or pools misspelt."""
    return not document.kind and any(key in FIELDS or get_close_matches(key, ["pools"], cutoff=0.8) for key in document.body)


def assemble(
    texts: Mapping[str, str],
    environment: Mapping[str, str] | None = None,
    changes: Iterable[str] = (),
    namespace: str = "default",
) -> Assembled:
    """Return the intent of texts by file: of one that states it, or of the manifests that all others are.

    Variables and changes are for a stated intent. Raises IntentError, as there must be one or the other.
    """
    documents = {file: load_documents(text, file) for file, text in texts.items()}
    manifests = [each for found in documents.values() for each in found if each.kind]
    stated = [file for file, found in documents.items() if not all(each.kind for each in found) or not found]
    if len(stated) > 1:
        raise IntentError(f"{stated[1]}: a second intent, beside {stated[0]}; one is read at a time")
    if manifests and stated:
        raise IntentError(f"{stated[0]} is an intent and {manifests[0].file} a Kubernetes object; give one or the other")
    if manifests:
        if changed := [*changes]:
            raise IntentError(f"--set {changed[0]}: manifests are read as they are; `import` makes an intent of them")
        read = intent_from(manifests, namespace)
        return Assembled(read.intent, read.notes)
    if not stated:
        raise IntentError("nothing to read an intent from: give -f FILE")
    statement = load_statement(texts[stated[0]], stated[0], environment)
    return Assembled(read_intent(statement, changes), statement=statement)
