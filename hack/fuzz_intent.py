"""Fuzz target: any text is an Intent with a bootstrap that is right by Envoy's schema, or an IntentError that names a place."""

from pathlib import Path

from shunter.envoyconf import IntentError, bootstrap, load_intent
from shunter.envoyconf.core.schema import envoy_schema, problems

GOLDEN = Path(__file__).resolve().parents[1] / "packages" / "envoyconf" / "tests" / "golden"
CORPUS = [path.read_bytes() for path in sorted(GOLDEN.glob("*.intent.yaml"))]
CORPUS += [b"pools:\n- name: ${A}\n  endpoints: ['${B:-h}:1', $${A}]\n  picker: {addresses: ['${A}:${C:-9}']}\nprofile: ${B}\n"]


def target(data):
    message = "$"
    try:
        resource = bootstrap(load_intent(data.decode(errors="replace"), environment={"A": "1", "B": "[x"}))
        assert problems(envoy_schema(), resource, "envoy.config.bootstrap.v3.Bootstrap") == ()
    except IntentError as error:
        message = str(error)
    assert message.startswith(("$", "intent:")), f"no place is named: {message}"
