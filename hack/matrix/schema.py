"""Whether what is generated for an Envoy fits the schema in that Envoy's binary: the golden intents, for every plain Envoy."""

from pathlib import Path

from hack.matrix.rows import Record

from shunter.envoyconf import IntentError, Profile, load_intent
from shunter.envoyconf.core.generate import PLAIN_ENVOYS, generate
from shunter.envoyconf.core.output import Settings
from shunter.envoyconf.core.schema import Schema, problems
from shunter.envoyconf.core.schema.extraction import descriptors_in
from shunter.envoyconf.core.validation import message_of
from shunter.envoyconf.core.versions import parse_version
from shunter.envoyconf.shell import envoy

__all__ = ["suite"]

GOLDEN = Path(__file__).parents[2] / "packages" / "envoyconf" / "tests" / "golden"


def suite(record: Record, versions: tuple[str, ...]) -> None:
    """Take down every intent and target on every version."""
    for version in versions:
        schema, settings = (
            Schema(descriptors_in(envoy.find(version).read_bytes())),
            Settings(envoy_version=parse_version(version)),
        )
        for path in sorted(GOLDEN.glob("*.intent.yaml")):
            intent, check = load_intent(path.read_text()), f"schema, intent {path.name.removesuffix('.intent.yaml')}"
            for target in PLAIN_ENVOYS:
                row = {
                    "target": target.value,
                    "envoy_version": version,
                    "profile": (intent.profile or Profile.LEAN).value,
                    "check": check,
                }
                try:
                    documents = [each for each in generate(intent, target, settings).documents if "kind" not in each]
                except IntentError as error:
                    record(**row, ok=True, detail=f"refused: {error}")
                    continue
                found = [str(each) for document in documents for each in problems(schema, document, message_of(document))]
                record(**row, ok=not found, detail="; ".join(found) or "fits")
