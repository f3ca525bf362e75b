"""A picker that does as a trial tells it, in whatever mode the gateway asks, and can die at any moment.

It speaks ext_proc (Endpoint Picker Protocol 1.0.0, GIE proposal 004) on a port of its own; a relay at the address that the
gateway was told makes it die as a killed process does.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

from shunter.conformance.errors import UsageError
from shunter.conformance.sections.gateways.trial import DESTINATION, TRIAL, Asked, Immediate, Pick, Pool, Trial, Trouble
from shunter.conformance.shell.extproc import load
from shunter.conformance.shell.gateways.relay import Relay

__all__ = ["PickerDouble"]

SERVED = "x-gateway-destination-endpoint-served"
LB_NAMESPACE = "envoy.lb"

# A streamed body response must fit into a gRPC message beside its envelope: llm-d-router's chunk.
CHUNK_BYTES = 62_000

# HealthCheckResponse{status: SERVING}, of grpc.health.v1.
SERVING = b"\x08\x01"

# The largest body that a gateway may send in one message (it buffers, where its mode is BUFFERED).
MESSAGE_BYTES = 64 << 20


class PickerDouble:
    """The picker of one pool. `usual` is whom it names for requests that belong to no trial."""

    def __init__(self, pool: Pool, address: str, usual: str, trials: Mapping[str, Trial]) -> None:
        self._pool = pool
        self._address = address
        self._usual = Pick((usual,))
        self._trials = trials
        self._grpc = load("grpc")
        self._pb = load("envoy.service.ext_proc.v3.external_processor_pb2")
        self._core = load("envoy.config.core.v3.base_pb2")
        self._modes = load("envoy.extensions.filters.http.ext_proc.v3.processing_mode_pb2").ProcessingMode
        self._server: Any = None

    async def start(self) -> None:
        """Listen; raises UsageError where that cannot be."""
        grpc = self._grpc
        options = [("grpc.max_receive_message_length", MESSAGE_BYTES), ("grpc.max_send_message_length", MESSAGE_BYTES)]
        self._server = grpc.aio.server(options=options)
        load("envoy.service.ext_proc.v3.external_processor_pb2_grpc").add_ExternalProcessorServicer_to_server(
            self, self._server
        )
        check = grpc.unary_unary_rpc_method_handler(_check_health)
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": check}),)
        )
        port = self._server.add_insecure_port("127.0.0.1:0")
        if not port:
            raise UsageError("the exam got no port of 127.0.0.1 for its picker")
        await self._server.start()
        self._relay = Relay(self._address, port)
        await self._relay.restore()

    async def stop(self) -> None:
        """Be gone."""
        await self._relay.close()
        await self._server.stop(None)

    async def die(self) -> None:
        """Reset all connections, and refuse new ones."""
        await self._relay.cut()

    async def live(self) -> None:
        """Be there again."""
        await self._relay.restore()

    async def Process(self, messages: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:  # noqa: N802 – gRPC's name
        """Answer for one request."""
        asked: Asked | None = None
        try:
            first = await anext(messages, None)
            if first is None or first.WhichOneof("request") != "request_headers":
                await context.abort(self._grpc.StatusCode.INVALID_ARGUMENT, "want request_headers first")
                return
            headers = {each.key.lower(): _value(each) for each in first.request_headers.headers.headers}
            trial = self._trials.get(headers.get(TRIAL, ""))
            asked = Asked(self._pool, headers)
            if trial:
                trial.asked.append(asked)
            answer = trial.pick if trial and trial.pick else self._usual
            if answer is Trouble.HANG:
                # Until the gateway gives up: it closes the stream, which cancels this.
                await asyncio.Event().wait()
            if answer is Trouble.ABORT:
                await context.abort(self._grpc.StatusCode.INTERNAL, "the exam's picker fails, as it was told to")
            if isinstance(answer, Immediate):
                yield self._immediate(answer)
                return
            if isinstance(answer, Pick):
                async for response in self._answers(first, messages, asked, answer):
                    yield response
        finally:
            if asked:
                asked.over.set()

    async def _answers(self, first: Any, messages: AsyncIterator[Any], asked: Asked, pick: Pick) -> AsyncIterator[Any]:
        pb = self._pb
        announced = first.HasField("protocol_config")
        # Who announces nothing keeps to the only mode that the protocol knows.
        duplex = self._modes.FULL_DUPLEX_STREAMED
        mode = first.protocol_config.request_body_mode if announced else duplex
        answer_mode = first.protocol_config.response_body_mode if announced else duplex
        replaced = False
        if first.request_headers.end_of_stream or mode in {self._modes.NONE, self._modes.STREAMED}:
            asked.body_ended = first.request_headers.end_of_stream
            yield self._picked(pick, pb.ProcessingResponse(request_headers=pb.HeadersResponse()), "request_headers")
        elif mode != duplex:
            yield pb.ProcessingResponse(request_headers=pb.HeadersResponse())
        async for message in messages:
            kind = message.WhichOneof("request")
            if kind == "request_body":
                asked.body += message.request_body.body
                asked.body_ended = message.request_body.end_of_stream
                if mode == self._modes.STREAMED:
                    yield pb.ProcessingResponse(request_body=pb.BodyResponse())
                elif mode != duplex:
                    yield self._whole_body(pick)
                elif asked.body_ended:
                    for response in self._duplex_body(pick, bytes(asked.body)):
                        yield response
            elif kind == "request_trailers":
                if mode == duplex and not asked.body_ended:
                    for response in self._duplex_body(pick, bytes(asked.body), end=False):
                        yield response
                yield pb.ProcessingResponse(request_trailers=pb.TrailersResponse())
            elif kind == "response_headers":
                asked.served = _served(message) or asked.served
                response = pb.ProcessingResponse(response_headers=pb.HeadersResponse())
                mutation = response.response_headers.response.header_mutation
                self._set(mutation, pick.response_headers)
                if pick.response_body is not None:
                    mutation.remove_headers.append("content-length")
                yield response
            elif kind == "response_body":
                asked.served = _served(message) or asked.served
                response = pb.ProcessingResponse(response_body=pb.BodyResponse())
                common = response.response_body.response
                if answer_mode == duplex:
                    body = message.response_body.body
                    if pick.response_body is not None:
                        body, replaced = b"" if replaced else pick.response_body, True
                    common.body_mutation.streamed_response.body = body
                    common.body_mutation.streamed_response.end_of_stream = message.response_body.end_of_stream
                elif pick.response_body is not None:
                    common.body_mutation.body = b"" if replaced else pick.response_body
                    replaced = True
                yield response
            elif kind == "response_trailers":
                yield pb.ProcessingResponse(response_trailers=pb.TrailersResponse())

    def _duplex_body(self, pick: Pick, body: bytes, *, end: bool = True) -> list[Any]:
        """The header answer that was withheld, then the body in chunks."""
        pb = self._pb
        body = body if pick.body is None else pick.body
        responses = [self._picked(pick, pb.ProcessingResponse(request_headers=pb.HeadersResponse()), "request_headers")]
        chunks = [body[at : at + CHUNK_BYTES] for at in range(0, len(body), CHUNK_BYTES)] or [b""]
        for number, chunk in enumerate(chunks, 1):
            response = pb.ProcessingResponse(request_body=pb.BodyResponse())
            streamed = response.request_body.response.body_mutation.streamed_response
            streamed.body, streamed.end_of_stream = chunk, end and number == len(chunks)
            responses.append(response)
        return responses

    def _whole_body(self, pick: Pick) -> Any:
        response = self._picked(pick, self._pb.ProcessingResponse(request_body=self._pb.BodyResponse()), "request_body")
        if pick.body is not None:
            common = response.request_body.response
            common.body_mutation.body = pick.body
            self._set(common.header_mutation, {"content-length": str(len(pick.body))})
        return response

    def _picked(self, pick: Pick, response: Any, phase: str) -> Any:
        """Put the choice into an answer, as header and as metadata (the protocol demands both)."""
        common = getattr(response, phase).response
        common.clear_route_cache = True  # as the reference picker does
        endpoints = ",".join(pick.endpoints)
        if endpoints:
            self._set(common.header_mutation, {DESTINATION: endpoints})
            response.dynamic_metadata.update({LB_NAMESPACE: {DESTINATION: endpoints}})
        self._set(common.header_mutation, pick.set_headers)
        common.header_mutation.remove_headers.extend(pick.remove_headers)
        return response

    def _immediate(self, answer: Immediate) -> Any:
        immediate = self._pb.ImmediateResponse(body=answer.body)
        immediate.status.code = answer.status
        self._set(immediate.headers, answer.headers)
        return self._pb.ProcessingResponse(immediate_response=immediate)

    def _set(self, mutation: Any, headers: Mapping[str, str]) -> None:
        for name, value in headers.items():
            header = self._core.HeaderValue(key=name, raw_value=value.encode())
            mutation.set_headers.append(self._core.HeaderValueOption(header=header))


async def _check_health(_request: bytes, _context: Any) -> bytes:
    return SERVING


def _value(header: Any) -> str:
    return (header.raw_value or header.value.encode()).decode("utf-8", "replace")


def _served(message: Any) -> str | None:
    metadata: Mapping[str, Any] = message.metadata_context.filter_metadata
    if LB_NAMESPACE not in metadata or SERVED not in metadata[LB_NAMESPACE].fields:
        return None
    return str(metadata[LB_NAMESPACE].fields[SERVED].string_value)
