"""ext_proc in bytes: messages to a picker written, and its answers read, with the protocol's own generated code."""

from typing import Any

from shunter.conformance.sections.pickers.messages import Message, Mode, Part, Reply, Set
from shunter.conformance.shell.extproc import load

__all__ = ["Codec"]

# HeaderAppendAction ADD_IF_ABSENT: what the client sent stays.
ADD_IF_ABSENT = 1


class Codec:
    """Reads and writes; made once, because what it needs is imported only where pickers are examined."""

    def __init__(self) -> None:
        self._protocol = load("envoy.service.ext_proc.v3.external_processor_pb2")
        self._modes = load("envoy.extensions.filters.http.ext_proc.v3.processing_mode_pb2").ProcessingMode
        self._json = load("google.protobuf.json_format")
        self._errors = load("google.protobuf.message").DecodeError, self._json.Error

    def encode(self, message: Message, announced: Mode | None) -> Any:
        """Return a ProcessingRequest; the first of a stream announces how bodies come."""
        request = self._protocol.ProcessingRequest()
        match message.part:
            case Part.REQUEST_HEADERS | Part.RESPONSE_HEADERS:
                said = getattr(request, message.part)
                said.end_of_stream = message.end
                said.SetInParent()
                _fill(said.headers, message)
            case Part.REQUEST_BODY | Part.RESPONSE_BODY:
                said = getattr(request, message.part)
                said.body, said.end_of_stream = message.body, message.end
                said.SetInParent()
            case Part.REQUEST_TRAILERS | Part.RESPONSE_TRAILERS:
                _fill(getattr(request, message.part).trailers, message)
            case _:
                pass
        for namespace, fields in message.metadata.items():
            request.metadata_context.filter_metadata[namespace].update(fields)
        if announced is not None:
            mode = self._modes.BodySendMode.Value(announced)
            request.protocol_config.request_body_mode = request.protocol_config.response_body_mode = mode
        return request

    def decode(self, data: bytes) -> Reply:
        """Read a ProcessingResponse; raises ValueError if it is none."""
        response = self._protocol.ProcessingResponse()
        try:
            response.ParseFromString(data)
            metadata = self._json.MessageToDict(response.dynamic_metadata)  # which refuses a number that JSON has not
        except self._errors as error:
            raise ValueError(f"not a ProcessingResponse: {error}") from None
        part = response.WhichOneof("response") or ""
        if part == Part.IMMEDIATE:
            said = response.immediate_response
            return Reply(
                part=Part.IMMEDIATE, sets=_sets(said.headers), body=said.body, status=said.status.code, metadata=metadata
            )
        said: Any = getattr(response, part or "request_headers")
        if part in {Part.REQUEST_TRAILERS, Part.RESPONSE_TRAILERS}:
            return Reply(part=Part(part), sets=_sets(said.header_mutation), metadata=metadata)
        common = said.response
        form = common.body_mutation.WhichOneof("mutation") or ""
        streamed = common.body_mutation.streamed_response
        return Reply(
            part=Part(part),
            sets=_sets(common.header_mutation),
            removes=tuple(common.header_mutation.remove_headers),
            clears_route=common.clear_route_cache,
            form=form,
            body=streamed.body if form == "streamed_response" else common.body_mutation.body,
            end=streamed.end_of_stream or streamed.end_of_stream_without_message,
            metadata=metadata,
        )

    def print(self, request: Any) -> str:
        """A ProcessingRequest in the JSON that grpcurl reads."""
        return self._json.MessageToJson(request, indent=None, preserving_proto_field_name=True)


def _fill(headers: Any, message: Message) -> None:
    for name, value in message.headers:
        headers.headers.add(key=name, raw_value=value)
    headers.SetInParent()


def _sets(mutation: Any) -> tuple[Set, ...]:
    """Envoy overwrites unless it is told to append, also where the action is not given, whose number is that of appending."""
    return tuple(
        Set(
            each.header.key,
            each.header.value or each.header.raw_value.decode("utf-8", "replace"),
            appends=each.append.value or each.append_action == ADD_IF_ABSENT,
        )
        for each in mutation.set_headers
    )
