"""Configurations that do what they are for are let be: of other kinds of proxies nothing is said at all, of gateways no error.

Comments at an example's top may name warnings that are true of it.
"""

import json
import re
from pathlib import Path

import aiohttp
import pytest
import yaml

from shunter.envoyconf.core.documents import load_documents
from shunter.envoyconf.core.lint.examine import examine
from shunter.envoyconf.shell import envoy
from shunter.envoyconf.testing import running_envoy

HERE = Path(__file__).parent
EXAMPLES = {path.stem: path.read_text() for path in sorted(HERE.glob("*.yaml"))}
BAD = HERE.parent / "envoy" / "E02" / "bad.yaml"


def codes(text):
    return [rule.code for rule, _ in examine(load_documents(text, "it.yaml"))]


@pytest.mark.parametrize("name", EXAMPLES)
def test_nothing_is_said_but_what_is_true(name):
    accepted = re.search(r"^# accepted: (.*)", EXAMPLES[name], re.MULTILINE)
    assert set(codes(EXAMPLES[name])) == set(accepted[1].split() if accepted else ())


@pytest.mark.envoy
@pytest.mark.parametrize("name", [name for name, text in EXAMPLES.items() if "static_resources" in text])
def test_envoy_accepts_it(name, envoy_binary):
    envoy.validate(EXAMPLES[name], envoy_binary)


@pytest.mark.envoy
async def test_what_a_running_envoy_tells_is_judged_as_what_it_was_given(envoy_binary):
    resource = yaml.safe_load(BAD.read_text().replace("10000", "0"))
    async with (
        running_envoy(resource, envoy_binary) as running,
        aiohttp.ClientSession() as client,
        client.get(f"http://{running.admin}/config_dump?include_eds") as answer,
    ):
        told = await answer.text()
    assert "configs" in json.loads(told)
    assert codes(told) == codes(BAD.read_text()) == ["E02"]
