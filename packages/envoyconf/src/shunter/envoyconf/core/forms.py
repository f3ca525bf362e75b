"""What a target made becomes text: one stream of documents, or files."""

import json
from typing import Literal

from shunter.envoyconf.core.output import Output
from shunter.envoyconf.core.render import render
from shunter.envoyconf.errors import IntentError

__all__ = ["Form", "as_files", "as_text"]

Form = Literal["yaml", "json"]


def as_text(output: Output, form: Form = "yaml") -> str:
    """Return all documents as one text, as `kubectl apply -f -` and Envoy read it.

    Raises IntentError for files that refer to each other, as those that Envoy watches do.
    """
    documents = output.documents
    if len(documents) == 1:
        return render(documents[0], form)
    if not all("kind" in each for each in documents):
        names = ", ".join(artefact.name for artefact in output.artefacts)
        raise IntentError(f"these are several files ({names}), and Envoy reads one at a time; use -o dir=DIR")
    if form == "json":
        return json.dumps({"apiVersion": "v1", "kind": "List", "items": documents}, indent=2) + "\n"
    return render(documents)


def as_files(output: Output) -> dict[str, str]:
    """Return a YAML file for each artefact, by name."""
    return {f"{artefact.name}.yaml": render(artefact.documents) for artefact in output.artefacts}
