import pytest

from shunter.scraper.errors import ConfigError
from shunter.scraper.shell.files import Files
from shunter.scraper.shell.names import Names


def write(path, *names):
    entries = ", ".join(f"{{name: {name}, address: 10.0.0.{number}, port: 1}}" for number, name in enumerate(names, 1))
    path.write_text(f"endpoints: [{entries}]")
    return path


def names(cluster):
    return [member.name for member in cluster.members]


async def polled(files, count=4):
    """What the next looks find."""
    return [names(found) for found in [await files.poll() for _ in range(count)] if found]


async def test_an_unchanged_file_is_read_once(tmp_path):
    files = Files(write(tmp_path / "e.yaml", "a"))
    assert names(files.load()) == ["a"]
    assert await polled(files) == []


async def test_a_changed_file_is_read_when_it_has_been_still_for_one_look(tmp_path):
    path = write(tmp_path / "e.yaml", "a")
    files = Files(path)
    files.load()
    write(path, "a", "b")
    assert await files.poll() is None
    write(path, "a", "b", "c")
    assert await files.poll() is None
    assert names(await files.poll()) == ["a", "b", "c"]
    assert await polled(files) == []


async def test_an_atomic_rename_and_a_configmap_swap_are_seen(tmp_path):
    for version, name in (("v1", "a"), ("v2", "b")):
        (tmp_path / version).mkdir()
        write(tmp_path / version / "e.yaml", name)
    (tmp_path / "..data").symlink_to("v1")
    (tmp_path / "e.yaml").symlink_to("..data/e.yaml")
    for path in (tmp_path / "e.yaml", tmp_path):
        files = Files(path)
        assert names(files.load()) == ["a"]
        (tmp_path / "new").symlink_to("v2")
        (tmp_path / "new").replace(tmp_path / "..data")
        assert await polled(files) == [["b"]]
        (tmp_path / "new").symlink_to("v1")
        (tmp_path / "new").replace(tmp_path / "..data")
        assert await polled(files) == [["a"]]


async def test_files_of_a_directory_come_and_go(tmp_path):
    write(tmp_path / "a.yaml", "a")
    (tmp_path / "notes.txt").write_text("no YAML: [")
    (tmp_path / ".hidden.yaml").write_text("no YAML: [")
    files = Files(tmp_path)
    assert names(files.load()) == ["a"]
    (tmp_path / "b.json").write_text('{"endpoints": [{"name": "b", "address": "::1", "port": 1}]}')
    assert await polled(files) == [["a", "b"]]
    (tmp_path / "a.yaml").unlink()
    assert await polled(files) == [["b"]]


async def test_files_that_change_while_they_are_read_are_read_again_and_not_complained_of(tmp_path, monkeypatch):
    path = write(tmp_path / "e.yaml", "a")
    files = Files(path)
    files.load()
    path.write_text("endpoints: [{name: half, addr")
    contents = files._contents

    def contents_and_then_the_rest():
        read = contents()
        monkeypatch.setattr(files, "_contents", contents)
        write(path, "whole")
        return read

    monkeypatch.setattr(files, "_contents", contents_and_then_the_rest)
    assert await polled(files, 6) == [["whole"]]


async def test_a_bad_change_is_said_once_and_a_good_one_after_it_counts(tmp_path):
    path = write(tmp_path / "e.yaml", "a")
    files = Files(path)
    files.load()
    for damage in (lambda: path.write_text("endpoints: [{nme: x}]"), lambda: path.write_text(""), path.unlink):
        damage()
        assert await files.poll() is None
        with pytest.raises(ConfigError, match=r"e\.yaml"):
            await files.poll()
        assert await polled(files) == []
        write(path, "a", "b")
        assert await polled(files) == [["a", "b"]]


def test_what_cannot_be_read_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nothing\.yaml: No such file"):
        Files(tmp_path / "nothing.yaml").load()
    with pytest.raises(ConfigError, match=r"no readable \.yaml"):
        Files(tmp_path).load()


async def test_names_are_looked_up_and_the_last_addresses_kept():
    lookups = Names()
    await lookups.look_up(["localhost", "no-such-host.invalid"])
    assert lookups.addresses["localhost"] in {("127.0.0.1",), ("::1",)}
    assert lookups.addresses["no-such-host.invalid"] == ()
    assert lookups.failures.keys() == {"no-such-host.invalid"}
    lookups.addresses = {"no-such-host.invalid": ("10.0.0.1",)}
    await lookups.look_up(["no-such-host.invalid"])
    assert lookups.addresses == {"no-such-host.invalid": ("10.0.0.1",)}
