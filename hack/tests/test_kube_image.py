"""An image made of what is here has each file once, under the path where the loader looks for it."""

import io
import json
import tarfile
from pathlib import Path

import pytest
from hack.kube.image import PYTHON, write_image


@pytest.fixture(scope="module")
def layer(tmp_path_factory):
    """The names in the layer of an image that has the snapshot package and cat under another name."""
    archive = tmp_path_factory.mktemp("image") / "image.tar"
    write_image(archive, "some:1", ["shunter-snapshot"], tools=[("dog", Path("/bin/cat"))], command=("dog",))
    with tarfile.open(archive) as image:
        (manifest,) = json.load(image.extractfile("manifest.json"))
        config = json.load(image.extractfile(manifest["Config"]))
        assert manifest["RepoTags"] == ["some:1"]
        assert config["config"]["Cmd"] == ["dog"]
        with tarfile.open(fileobj=io.BytesIO(image.extractfile(manifest["Layers"][0]).read())) as files:
            return files.getnames()


def test_every_file_is_there_once(layer):
    """Docker refuses an archive that has one twice."""
    assert len(layer) == len(set(layer))


def test_programs_packages_and_their_libraries_are_there(layer):
    assert {"bin/sh", "usr/local/bin/dog", str(PYTHON).lstrip("/"), "app/msgspec/__init__.py"} <= set(layer)
    assert any(name.startswith("app/shunter/snapshot/") for name in layer)
    assert any("libc.so" in name for name in layer)


def test_what_a_server_never_imports_is_not(layer):
    assert not [name for name in layer if "/test/" in name or name.endswith((".a", ".pyc"))]
