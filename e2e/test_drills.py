"""Whoever is called finds the cause by a sentence: something is broken in a real stack, and what names it is awaited."""

import os

import pytest
from hack.drills.__main__ import run
from hack.drills.drills import DRILLS
from hack.observability import prometheus

from shunter.picker.core.alerts import ALERTS

pytestmark = pytest.mark.envoy

# The others wait for averages to change and for silence to last: `make drills`.
QUICK = {"Bypassed picker", "Refused configuration"}
CHOSEN = [drill for drill in DRILLS if drill.name in QUICK or os.environ.get("SHUNTER_EVERY_DRILL")]


@pytest.fixture(scope="module")
def told():
    try:
        prometheus.find("prometheus")
    except prometheus.Missing as missing:
        pytest.skip(str(missing))
    return {drill.name: shown for drill, shown in run(CHOSEN)}


@pytest.mark.parametrize("drill", CHOSEN, ids=lambda drill: drill.name)
def test_the_cause_is_named_on_the_page_and_by_an_alert(drill, told):
    shown = told[drill.name]
    assert shown.sentence
    assert shown.alert
    assert len(shown.figures) > 1


def test_every_drill_is_about_an_alert_that_there_is():
    assert {drill.alert for drill in DRILLS} <= {alert.name for alert in ALERTS}
