"""Every input a fuzzer starts from, and every one that ever broke a promise, is kept."""

import random
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

HACK = Path(__file__).resolve().parents[1]
fuzz = SimpleNamespace(**runpy.run_path(HACK / "fuzz.py"))


@pytest.mark.parametrize("name", fuzz.targets())
def test_the_corpus_breaks_nothing(name):
    module = fuzz.load(name)
    for entry in fuzz.corpus_of(name):
        module.target(entry)


@pytest.mark.parametrize("name", fuzz.targets())
def test_a_thousand_mutations_break_nothing(name):
    module = fuzz.load(name)
    dice = random.Random(name)
    for _ in range(1000):
        module.target(fuzz.mutate(dice, module.CORPUS))
