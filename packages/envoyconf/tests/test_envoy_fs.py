"""The directory that Envoy watches: every state on the way is a whole one, and no request is lost on the way."""

import asyncio
import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from shunter.envoyconf import load_intent
from shunter.envoyconf.cli import main
from shunter.envoyconf.core.documents import load_documents
from shunter.envoyconf.core.generate import generate
from shunter.envoyconf.core.output import Settings
from shunter.envoyconf.core.targets import Target
from shunter.envoyconf.core.xds.encoding import clusters_of
from shunter.envoyconf.core.xds.files import BOOTSTRAP, stages
from shunter.envoyconf.core.xds.members import Member
from shunter.envoyconf.shell import directory as module
from shunter.envoyconf.shell.directory import Directory
from shunter.envoyconf.testing import running_envoy


def make(place, pools, **fields):
    """Return the files for pools, given their endpoints by name."""
    every = [{"name": name, "endpoints": each, "picker": {"addresses": ["127.0.0.1:1"]}} for name, each in pools.items()]
    first, *rest = pools
    routes = [{"pool": name, "prefix": f"/{name}"} for name in rest] + [{"pool": first}]
    intent = {"pools": every, "routes": routes, "listeners": [{"port": 0}]} | fields
    return generate(load_intent(json.dumps(intent)), Target.ENVOY_FS, Settings(directory=str(place)))


def by_name(output):
    return {artefact.name: artefact.documents[0] for artefact in output.artefacts}


def check_whole(there):
    """See that whatever is referred to is there."""
    clusters = {each["name"] for each in there["cds"]["resources"]}
    for each in there["cds"]["resources"]:
        if source := each.get("eds_cluster_config", {}).get("eds_config"):
            assert Path(source["path_config_source"]["path"]).stem in there
    text = json.dumps(there["lds"])
    for stem, document in there.items():
        if stem.startswith("rds."):
            used = f"/{stem}.yaml" in text
            assert not used or {name for each in document["resources"] for name in clusters_of(each)} <= clusters


states = st.dictionaries(
    st.sampled_from(["llama", "qwen", "phi"]),
    st.lists(st.sampled_from(["10.0.0.1:1", "10.0.0.2:1"]), min_size=1, unique=True),
    min_size=1,
)


@given(states, states)
def test_every_state_on_the_way_is_whole_and_the_last_is_the_new_one(before, after):
    there, goal = by_name(make("/d", before)), by_name(make("/d", after))
    for stage in stages(there, goal):
        for stem, document in stage.written.items():
            there[stem] = document
            check_whole(there)
        for stem in stage.removed:
            del there[stem]
        check_whole(there)
    assert there == goal


def test_nothing_is_written_where_nothing_has_changed():
    files = by_name(make("/d", {"llama": ["10.0.0.1:1"]}))
    assert [stage.written for stage in stages(files, files)] == [{}]


@pytest.mark.parametrize("foreign", [{"a": 1}, {"resources": None}, {"resources": [1, {}]}, {"resources": {"name": "a"}}])
def test_what_somebody_else_wrote_in_the_place_of_a_file_is_replaced(foreign):
    goal = by_name(make("/d", {"llama": ["10.0.0.1:1"]}))
    there = dict.fromkeys(goal, foreign)
    for stage in stages(there, goal):
        there |= stage.written
    assert there == goal


def test_endpoints_that_change_are_one_file():
    before, after = (by_name(make("/d", {"llama": [endpoint]})) for endpoint in ("10.0.0.1:1", "10.0.0.2:1"))
    assert [[*stage.written] for stage in stages(before, after)] == [["eds.pool_llama"]]


@pytest.mark.envoy
async def test_envoy_follows_the_files_without_losing_a_request(scene, tmp_path, until, monkeypatch):
    monkeypatch.setattr(module, "SETTLE_S", 0.3)
    place = tmp_path / "files"
    first, second = (each.authority for each in scene.upstreams)
    files = Directory(place)
    output = make(place, {"llama": [first]})
    await files.update(output)
    async with running_envoy(by_name(output)[BOOTSTRAP], scene.binary) as gateway:
        assert (await scene.ask(gateway))[:2] == (200, first)
        failed, stop = [], asyncio.Event()

        async def ask_on():
            while not stop.is_set():
                status, text, _ = await scene.ask(gateway)
                if status != 200:
                    failed.append((status, text))

        asking = asyncio.create_task(ask_on())

        async def served(path, by):
            return (await scene.ask(gateway, path))[:2] == (200, by)

        host, port = second.split(":")
        await files.move({"pool/llama": [Member(host, int(port))]})
        await until(lambda: served("/", second))
        await Directory(place).update(make(place, {"llama": [first], "qwen": [second]}))
        await until(lambda: served("/qwen/v1", second))
        await Directory(place).update(make(place, {"qwen": [second]}))
        await until(lambda: served("/", second))
        stop.set()
        await asking
    assert failed == []
    assert {path.stem for path in place.iterdir()} == {"envoy", "cds", "lds", "eds.pool_qwen", "eds.picker_qwen", "rds.routes"}


def test_generate_takes_away_what_it_wrote_and_nothing_else(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SETTLE_S", 0)
    place = tmp_path / "files"
    place.mkdir()
    (place / "notes.yaml").write_text("mine: true\n")
    for pools in ("llama", "qwen"):
        pool = {"name": pools, "endpoints": ["10.0.0.1:80"], "picker": {"addresses": ["10.0.0.2:80"]}}
        (tmp_path / "intent.yaml").write_text(json.dumps({"pools": [pool]}))
        command = ["generate", "-f", str(tmp_path / "intent.yaml"), "--target", "envoy-fs", "-o", f"dir={place}"]
        done = CliRunner().invoke(main, command)
        assert done.exit_code == 0, done.output
    assert {path.stem for path in place.glob("eds.*")} == {"eds.pool_qwen", "eds.picker_qwen"}
    assert (place / "notes.yaml").exists()
    assert f"path: {place}/cds.yaml" in (place / "envoy.yaml").read_text()


def test_generate_writes_the_rewrites_of_every_pool(tmp_path):
    pools = [{"name": name, "endpoints": ["10.0.0.1:80"], "picker": {"addresses": ["10.0.0.2:80"]}} for name in ("a", "b")]
    routes = [{"pool": name, "models": [name], "rewrites": [{"model": f"{name}-v1"}]} for name in ("a", "b")]
    (tmp_path / "intent.yaml").write_text(json.dumps({"pools": pools, "routes": routes}))
    place = tmp_path / "files"
    command = ["generate", "-f", str(tmp_path / "intent.yaml"), "--target", "envoy-fs", "-o", f"dir={place}"]
    assert CliRunner().invoke(main, command).exit_code == 0
    text = (place / "rewrites.yaml").read_text()
    assert [document.body["spec"]["poolRef"]["name"] for document in load_documents(text, "")] == ["a", "b"]
