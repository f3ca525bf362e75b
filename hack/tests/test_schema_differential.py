"""What the schema says of broken bootstraps is what the real Envoy says."""

import random

import pytest
from hack import schema_differential

from shunter.envoyconf import EnvoyMissingError
from shunter.envoyconf.shell import envoy

# Each takes an Envoy of a tenth of a second.
COUNT = 50


@pytest.mark.envoy
def test_envoy_agrees():
    try:
        binary = envoy.ensure()
    except EnvoyMissingError as error:
        pytest.skip(f"no Envoy: {str(error).splitlines()[0]}")
    dice, resources = random.Random("a seed"), schema_differential.bootstraps()
    verdicts = [schema_differential.compare(dice, resources, binary) for _ in range(COUNT)]
    assert [each for each in verdicts if not each[-1]] == []
    assert any(named and refused for _, named, refused, _ in verdicts)
    assert any(not named and not refused for _, named, refused, _ in verdicts)
