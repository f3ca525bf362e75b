"""Intents and the bootstraps they become, each accepted by the real Envoy.

After a change that is meant: ``SHUNTER_UPDATE_GOLDEN=1 pytest packages/envoyconf``, then read the diff.
"""

import os
from pathlib import Path

import pytest

from shunter.envoyconf import Intent, Listener, Picker, Pool, Route, bootstrap, load_intent, render
from shunter.envoyconf.shell import envoy

GOLDEN = Path(__file__).parent / "golden"
INTENTS = sorted(path.name.removesuffix(".intent.yaml") for path in GOLDEN.glob("*.intent.yaml"))


def load(name):
    return load_intent((GOLDEN / f"{name}.intent.yaml").read_text())


@pytest.mark.parametrize("name", INTENTS)
def test_the_bootstrap_is_the_golden_one(name):
    text = render(bootstrap(load(name)))
    golden = GOLDEN / f"{name}.bootstrap.yaml"
    if os.environ.get("SHUNTER_UPDATE_GOLDEN"):
        golden.write_text(text)
    assert text == golden.read_text()


@pytest.mark.envoy
@pytest.mark.parametrize("name", INTENTS)
def test_envoy_accepts_the_golden_bootstrap(name, envoy_binary):
    envoy.validate((GOLDEN / f"{name}.bootstrap.yaml").read_text(), envoy_binary)


def test_everything_leaves_no_default():
    intent, default = load("everything"), Intent(pools=load("minimal").pools)
    for part in ("routes", "listeners", "profile", "admin"):
        assert getattr(intent, part) != getattr(default, part)
    for part in ("limits", "observability"):
        ours, theirs = getattr(intent, part), getattr(default, part)
        assert all(getattr(ours, field) != getattr(theirs, field) for field in ours.__struct_fields__)


@pytest.mark.envoy
def test_names_that_look_like_numbers_or_booleans_stay_names(envoy_binary):
    names = ["y", "n", "yes", "null", "nan", "inf", "7", "7b", "1.5", "1e3", "0x1f", "0x1p3", "0777", "1-2", "a1"]
    picker = Picker(addresses=("1.2.3.4:1",))
    pools = tuple(Pool(name=name, endpoints=("1.2.3.4:2",), picker=picker) for name in names)
    routes = tuple(Route(pool=name, prefix=f"/{name}") for name in names)
    listeners = tuple(Listener(name=name, port=port) for port, name in enumerate(names, 9000))
    for form in ("yaml", "json"):
        envoy.validate(render(bootstrap(Intent(pools=pools, routes=routes, listeners=listeners)), form), envoy_binary)
