"""Every input a fuzzer starts from, and every one that ever broke a promise, is kept."""

import importlib.util
import random
from pathlib import Path

import pytest

HACK = Path(__file__).resolve().parents[1]


def load(name):
    spec = importlib.util.spec_from_file_location(name, HACK / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


fuzz = load("fuzz")


@pytest.mark.parametrize("name", fuzz.targets())
def test_the_corpus_breaks_nothing(name):
    module = load(name)
    for entry in module.CORPUS:
        module.target(bytes(entry))
    for path in sorted((HACK / "corpus" / name).glob("*")):
        module.target(path.read_bytes())


@pytest.mark.parametrize("name", fuzz.targets())
def test_a_thousand_mutations_break_nothing(name):
    module = load(name)
    dice = random.Random(name)
    for _ in range(1000):
        module.target(fuzz.mutate(dice, module.CORPUS))
