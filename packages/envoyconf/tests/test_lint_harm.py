"""What the linter warns of happens on a real Envoy with the bad example, and not with the good one.

``make envoyconf-matrix`` shows it for more rules, and on every version.
"""

import pytest
from hack.matrix.harm import HARMS, seen

from shunter.envoyconf.shell import envoy

pytestmark = pytest.mark.envoy


@pytest.mark.usefixtures("envoy_binary")
@pytest.mark.parametrize("harm", [harm for harm in HARMS if harm.is_quick], ids=str)
async def test_it_is_the_mistake_that_does_harm(harm):
    assert await seen(harm, harm.example, envoy.VERSION) == harm.bad
    assert await seen(harm, "good", envoy.VERSION) == harm.good
