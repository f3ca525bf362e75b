"""The schema is that of the real binaries, and what is generated for each of their versions fits it."""

import functools
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto

from shunter.envoyconf import IntentError, load_intent
from shunter.envoyconf.core.generate import generate
from shunter.envoyconf.core.output import Settings
from shunter.envoyconf.core.schema import Schema, envoy_schema, problems
from shunter.envoyconf.core.schema.extraction import descriptors_in, introductions
from shunter.envoyconf.core.targets import Target
from shunter.envoyconf.core.versions import parse_version
from shunter.envoyconf.shell import envoy

BOOTSTRAP = "envoy.config.bootstrap.v3.Bootstrap"
INTENTS = sorted((Path(__file__).parent / "golden").glob("*.intent.yaml"))
VERSIONS = ["1.36.2", "1.37.0", "1.38.3", "1.39.3", "1.40.0"]


@functools.cache
def descriptors(version):
    binary = envoy.tools_dir() / "envoy" / version / "envoy"
    if not binary.exists():
        pytest.skip(f"not here: shunter envoyconf fetch-envoy --version {version}")
    return descriptors_in(binary.read_bytes())


@pytest.mark.envoy
def test_the_schema_is_the_one_in_the_binary():
    shipped = envoy_schema()
    assert descriptors(VERSIONS[-1]).file
    for file in descriptors(VERSIONS[-1]).file:
        known = shipped.pool.FindFileByName(file.name)
        assert in_order(known.serialized_pb) == in_order(file.SerializeToString()), file.name


def in_order(serialized):
    """Which options of a file are known, and so the order in which they are written, depends on what else was imported."""
    return FileDescriptorProto.FromString(serialized).SerializeToString(deterministic=True)


@pytest.mark.envoy
def test_what_each_version_brought_is_known():
    brought = introductions({version: descriptors(version) for version in VERSIONS})
    assert envoy_schema().since == {part: parse_version(version) for version, parts in brought.items() for part in parts}


@pytest.mark.envoy
@pytest.mark.parametrize("version", VERSIONS)
def test_what_is_generated_for_a_version_fits_its_schema(version):
    schema = Schema(descriptors(version))
    fitting = 0
    for path in INTENTS:
        try:
            output = generate(
                load_intent(path.read_text()), Target.ENVOY_STATIC, Settings(envoy_version=parse_version(version))
            )
        except IntentError:  # that Envoy lacks what the intent wants, and the message says what
            continue
        fitting += 1
        for document in output.documents:
            assert problems(schema, document, BOOTSTRAP) == ()
            assert problems(envoy_schema(), document, BOOTSTRAP, parse_version(version)) == ()
    assert fitting


def test_what_holds_no_schema_has_none():
    assert not descriptors_in(b"\n\x09envoy/a.proto \n\x0denvoy/b.proto\x12\x01").file
    assert not descriptors_in(b"").file
