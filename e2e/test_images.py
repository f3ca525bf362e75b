"""The images of the Dockerfile, built and run by a real Docker daemon that has no network."""

import contextlib
import json
import os

import pytest
from hack.kube import images, programs

# All of them take minutes: make images.
TARGETS = images.TARGETS if os.environ.get("SHUNTER_EVERY_IMAGE") else ("picker",)
SAFE = ("--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--network=none")


@pytest.fixture(scope="module")
def docker():
    with contextlib.ExitStack() as stack:
        try:
            running = stack.enter_context(images.running_builder())
        except programs.Missing as missing:
            pytest.skip(str(missing))
        except PermissionError:
            pytest.skip("no network namespace: only root can give a Docker daemon a network of its own")
        for target in TARGETS:
            images.build(running, target)
        yield running


def layers(docker, name):
    return json.loads(docker.docker("inspect", name))[0]["RootFS"]["Layers"]


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_runs_its_command_as_nobody_on_a_root_it_cannot_write(docker, target):
    name = images.image_name(target)
    assert "Usage: shunter" in docker.docker("run", "--rm", *SAFE, name, "--help")
    write = "import os; print(os.getuid(), os.access('/opt/shunter', os.W_OK), os.access('/', os.W_OK))"
    assert docker.docker("run", "--rm", *SAFE, "--entrypoint=python3", name, "-c", write).split() == ["65532", "False", "False"]


def test_what_is_built_twice_is_the_same(docker):
    before = layers(docker, images.image_name("picker"))
    images.build(docker, "picker", "--no-cache")
    assert layers(docker, images.image_name("picker")) == before


def test_there_is_nothing_that_installs(docker):
    finder = "import importlib.util as u; print([n for n in ('pip', 'setuptools', 'hatchling') if u.find_spec(n)])"
    command = ("run", "--rm", *SAFE, "--entrypoint=/opt/shunter/bin/python", images.image_name("picker"), "-c", finder)
    assert docker.docker(*command).strip() == "[]"
