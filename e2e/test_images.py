"""The images of the Dockerfile, built and run by a real Docker daemon that has no network."""

import contextlib
import json
import os

import pytest
from hack.kube import images, programs

EVERYTHING = "SHUNTER_EVERY_IMAGE" in os.environ
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
        yield running


def layers(docker, name):
    return json.loads(docker.docker("inspect", name))[0]["RootFS"]["Layers"]


@pytest.mark.parametrize("target", images.TARGETS if EVERYTHING else ("picker",))
def test_an_image_runs_its_command_as_nobody_on_a_root_it_cannot_write(docker, target):
    name = images.build(docker, target)
    assert "Usage: shunter" in docker.docker("run", "--rm", *SAFE, name, "--help")
    write = "import os; print(os.getuid(), os.access('/opt/shunter', os.W_OK), os.access('/', os.W_OK))"
    assert docker.docker("run", "--rm", *SAFE, "--entrypoint=python3", name, "-c", write).split() == ["65532", "False", "False"]


@pytest.mark.skipif(not EVERYTHING, reason="needs its time: make images")
def test_what_is_built_twice_is_the_same(docker):
    before = layers(docker, images.build(docker, "picker"))
    assert layers(docker, images.build(docker, "picker", "--no-cache")) == before


def test_there_is_nothing_that_installs(docker):
    finder = "import importlib.util as u; print([n for n in ('pip', 'setuptools', 'hatchling') if u.find_spec(n)])"
    command = ("run", "--rm", *SAFE, "--entrypoint=/opt/shunter/bin/python", images.build(docker, "picker"), "-c", finder)
    assert docker.docker(*command).strip() == "[]"
