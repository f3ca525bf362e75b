"""Envoy's messages, in a pool of their own, so that no other package's idea of them gets in the way.

Python packages with Envoy's protobufs (xds-protos) lag behind Envoy and register their files with the default pool, where a
second definition of a file is an error. The messages here are those of the binary, and live beside any others.
"""

import functools
import lzma
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import msgspec
from google.protobuf import descriptor_pool, json_format, message_factory
from google.protobuf.descriptor import Descriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.message import Message

from shunter.envoyconf.core.protojson import Resource
from shunter.envoyconf.core.schema.shapes import Shape, Surveyor
from shunter.envoyconf.core.versions import Version, parse_version

__all__ = ["Schema", "envoy_schema"]

TYPE_URL = "type.googleapis.com/"


class Schema:
    """The messages of one version, by their full names, such as ``envoy.config.cluster.v3.Cluster``."""

    def __init__(self, descriptors: FileDescriptorSet, since: Mapping[str, Version] | None = None) -> None:
        self.since = since or {}
        self.pool = descriptor_pool.DescriptorPool()
        files = {file.name: file for file in descriptors.file}
        # A file can be added once those that it imports are there; a stack, since the imports run deep.
        waiting, added = [*files], set[str]()
        while waiting:
            file = files[waiting[-1]]
            missing = [name for name in file.dependency if name not in added]
            if waiting[-1] in added or not missing:
                name = waiting.pop()
                if name not in added:
                    self.pool.AddSerializedFile(file.SerializeToString())
                    added.add(name)
            else:
                waiting += missing
        self.names = frozenset(f"{file.package}.{message.name}" for file in descriptors.file for message in file.message_type)
        self._surveyor = Surveyor(self.pool)

    def message(self, name: str) -> Any:
        """Return the class of a message; raise KeyError if there is none of that name."""
        return message_factory.GetMessageClass(self._descriptor(name))

    def shape(self, name: str) -> Shape:
        """Return what a message may hold; raise KeyError if there is none of that name."""
        return self._surveyor.shape(self._descriptor(name))

    def encode(self, resource: Resource, name: str) -> Message:
        """Return the message that a resource in protobuf's JSON form states, with everything in it that is an Any.

        Raises json_format.ParseError with the path of what does not fit; ``problems`` says more.
        """
        return json_format.ParseDict(resource, self.message(name)(), descriptor_pool=self.pool)

    def pack(self, resource: Resource, name: str) -> Any:
        """Return the resource as an Any of this schema, as discovery responses hold them."""
        return self.message("google.protobuf.Any")(
            type_url=TYPE_URL + name, value=self.encode(resource, name).SerializeToString(deterministic=True)
        )

    def decode(self, data: bytes, name: str) -> Resource:
        """Return the JSON form, with field names as Envoy's documentation has them, of a serialised message."""
        message: Message = self.message(name).FromString(data)
        return json_format.MessageToDict(message, preserving_proto_field_name=True, descriptor_pool=self.pool)

    def _descriptor(self, name: str) -> Descriptor:
        return self.pool.FindMessageTypeByName(name)


@functools.cache
def envoy_schema() -> Schema:
    """Return the schema of the Envoy that this package is made for. Reading it takes 0.1 s once, and 9 MB."""
    here = files("shunter.envoyconf.core.schema")
    descriptors = FileDescriptorSet.FromString(lzma.decompress((here / "envoy-1.40.binpb.xz").read_bytes()))
    brought = msgspec.json.decode((here / "since.json").read_bytes(), type=dict[str, list[str]])
    since = {part: parse_version(version) for version, parts in brought.items() for part in parts}
    return Schema(descriptors, since)
