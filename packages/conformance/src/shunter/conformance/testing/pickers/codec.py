"""ext_proc on a picker's side: messages read, and answers written."""

from typing import Any

from shunter.conformance.sections.pickers.messages import Message, Mode, Part, Reply
from shunter.conformance.shell.extproc import load
from shunter.conformance.testing.pickers.seams import Talk

__all__ = ["Codec"]


class Codec:
    """The other direction of `shell.pickers.messages.Codec`."""

    def __init__(self) -> None:
        self._protocol = load("envoy.service.ext_proc.v3.external_processor_pb2")
        self._modes = load("envoy.extensions.filters.http.ext_proc.v3.processing_mode_pb2").ProcessingMode
        self._json = load("google.protobuf.json_format")

    def decode(self, data: bytes, talk: Talk) -> Message:
        """Read a ProcessingRequest; the first one says how bodies come."""
        request = self._protocol.ProcessingRequest.FromString(data)
        if request.HasField("protocol_config"):
            talk.mode = Mode(self._modes.BodySendMode.Name(request.protocol_config.request_body_mode))
        part = Part(request.WhichOneof("request") or "")
        said = getattr(request, part or "request_headers")
        metadata = {name: self._json.MessageToDict(each) for name, each in request.metadata_context.filter_metadata.items()}
        if part in {Part.REQUEST_BODY, Part.RESPONSE_BODY}:
            return Message(part=part, body=said.body, end=said.end_of_stream, metadata=metadata)
        headers: Any = said.trailers if part in {Part.REQUEST_TRAILERS, Part.RESPONSE_TRAILERS} else said.headers
        fields = tuple((each.key, each.raw_value or each.value.encode()) for each in headers.headers)
        return Message(part=part, headers=fields, end=getattr(said, "end_of_stream", True), metadata=metadata)

    def encode(self, reply: Reply) -> bytes:
        """Write a ProcessingResponse."""
        response = self._protocol.ProcessingResponse()
        if reply.metadata:
            response.dynamic_metadata.update(reply.metadata)
        said = getattr(response, reply.part)
        said.SetInParent()
        if reply.part is Part.IMMEDIATE:
            said.status.code, said.body, mutation = reply.status, reply.body, said.headers
        elif reply.part in {Part.REQUEST_TRAILERS, Part.RESPONSE_TRAILERS}:
            mutation = said.header_mutation
        else:
            common, mutation = said.response, said.response.header_mutation
            common.clear_route_cache = reply.clears_route
            if reply.form == "streamed_response":
                common.body_mutation.streamed_response.body = reply.body
                common.body_mutation.streamed_response.end_of_stream = reply.end
                common.body_mutation.streamed_response.SetInParent()
            elif reply.form:
                common.body_mutation.body = reply.body
        for each in reply.sets:
            option = mutation.set_headers.add()
            option.header.key, option.header.raw_value = each.name, each.value.encode()
            if each.appends:
                option.append.value = True
        return response.SerializeToString()
