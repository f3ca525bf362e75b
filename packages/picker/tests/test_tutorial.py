"""The plugins of docs/write-a-plugin.md do what it says: its blocks are installed as a package would be, and used."""

import random
import re
import sys
import tomllib
from pathlib import Path

import pytest

from shunter.picker import config
from shunter.picker.core.judge import FleetJudge
from shunter.picker.core.judgement import Ask, Outcome
from shunter.picker.core.policy import Policy
from shunter.picker.errors import ConfigError
from shunter.picker.plugins import CATALOGUE, Kind

PAGE = Path(__file__).resolve().parents[3] / "docs" / "write-a-plugin.md"
HEAD = "apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\n"


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(), re.DOTALL)


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Put both modules where installed packages are, with the entry points that the page's pyproject.toml announces."""
    scorer, memory = blocks("python")
    (project,) = (tomllib.loads(text) for text in blocks("toml"))
    entries = project["project"]["entry-points"]["shunter.plugins"] | {"rest-filter": "shunter_rest"}
    about = tmp_path / "shunter_prices-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['project']['name']}\nVersion: 1.0\n")
    lines = "".join(f"{name} = {module}\n" for name, module in entries.items())
    (about / "entry_points.txt").write_text(f"[shunter.plugins]\n{lines}")
    (tmp_path / "shunter_prices.py").write_text(scorer)
    (tmp_path / "shunter_rest.py").write_text(memory)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    for name, module in entries.items():
        CATALOGUE.pop(name, None)
        sys.modules.pop(module, None)


def judge_of(policy: Policy, view):
    return FleetJudge(policy, lambda _: view, random.Random(0))


def ask(judge, now_s=100.0):
    return judge.decide(Ask({":path": "/v1/models"}, b"", has_body=False), now_s)


def priced(make_view, *prices, **rows):
    labels = [{"labels": {"example.com/price": price} if price else {}} for price in prices]
    return make_view(*({"waiting": 0.0} | rows for _ in prices), endpoints=labels)


@pytest.mark.usefixtures("installed")
def test_the_scorer_prefers_cheap_endpoints(make_view):
    (text,) = blocks("yaml")
    judge = judge_of(config.load(text).policy, priced(make_view, "3", None, "1"))
    assert ask(judge).endpoints[0] == "10.0.0.3:8000"
    (entry,) = judge.decisions.latest()
    decision = entry.decision
    assert decision.scores[-1][1] == [0.25, 0.0, 0.75]
    assert decision.totals == [1.5, 1.0, 2.5]


@pytest.mark.usefixtures("installed")
def test_a_price_that_is_no_number_is_complained_about(make_view):
    (text,) = blocks("yaml")
    judge = judge_of(config.load(text).policy, priced(make_view, "dear", "1"))
    assert len(ask(judge).endpoints) == 2
    assert "could not convert" in judge.complaints["cheapest-scorer"]


@pytest.mark.usefixtures("installed")
def test_its_parameters_are_checked():
    with pytest.raises(ConfigError, match=r"unknown field; did you mean 'most'"):
        config.load(HEAD + "plugins: [{type: cheapest-scorer, parameters: {mots: 3}}]")


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("shown", [True, False])
def test_the_filter_gives_the_failing_a_rest(make_view, shown):
    plan = config.load(HEAD + "plugins: [{type: rest-filter}, {type: max-score-picker}]")
    judge = judge_of(plan.policy, make_view({}, {}))
    first, failed = ask(judge), Outcome(complete=True, status=503)
    judge.release(first.ticket, failed if shown else Outcome(complete=True, lasts=True), 101.0)
    judge.measured(first.ticket, failed, 101.0)
    for at_s in (102.0, 103.0, 104.0, 105.9):
        assert first.endpoints[0] not in ask(judge, at_s).endpoints
    assert set(ask(judge, 106.0).endpoints) == set(first.endpoints)


def test_without_the_package_the_type_is_unknown():
    with pytest.raises(ConfigError, match="no plugin has the type 'cheapest-scorer'"):
        config.load(HEAD + "plugins: [{type: cheapest-scorer}]")


def test_the_overview_has_every_plugin_of_profiles():
    text = PAGE.with_name("plugins.md").read_text()
    kinds = {Kind.FILTER, Kind.SCORER, Kind.PICKER, Kind.PRODUCER, Kind.ADMITTER}
    assert [name for name, entry in CATALOGUE.items() if kinds & {*entry.kinds} and f"`{name}`" not in text] == []


def test_a_scorer_of_20_lines_has_no_more():
    scorer, _ = blocks("python")
    assert len(scorer.strip().splitlines()) <= 20
