"""Pickers that know what engines hold find each other's prompts; one that sees all traffic does not need to."""

import runpy
from pathlib import Path
from types import SimpleNamespace

sim = SimpleNamespace(**runpy.run_path(Path(__file__).resolve().parents[1] / "sim_prefix.py"))


def test_pickers_that_know_nothing_of_each_other_find_what_the_others_had_cached():
    table = sim.compare(4, 16, requests=250, seeds=1)
    assert table["knowledge"][2] > table["guess"][2] + 0.05


def test_a_run_can_be_repeated():
    assert sim.simulate("knowledge", 2, 16, 40, 7) == sim.simulate("knowledge", 2, 16, 40, 7)
