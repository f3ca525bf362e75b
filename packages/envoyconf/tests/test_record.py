"""What Envoy is to tell a collector of each request."""

import pytest

from shunter.envoyconf.core.envoy.record import record_fields
from shunter.envoyconf.core.intent import Profile


@pytest.mark.parametrize(
    ("profiles", "told"), [({Profile.NATIVE}, False), ({Profile.NATIVE, Profile.LEAN}, True), ({Profile.LEAN}, True)]
)
def test_a_record_has_the_pick_where_somebody_picks(profiles, told):
    """Without the field nobody was to be asked; with an empty one somebody was, and a gateway that fails open went on."""
    assert ("pick" in record_fields(profiles)) is told
