"""One request in HTTP/2 without TLS: enough of a client to see whether a gateway speaks it."""

import asyncio
from collections.abc import Mapping

from shunter.conformance.errors import Unanswered
from shunter.conformance.shell.extproc import load

__all__ = ["request"]

READ_BYTES = 1 << 16


async def request(
    host: str, port: int, headers: Mapping[str, str], body: bytes, timeout_s: float
) -> tuple[int, dict[str, str], bytes]:
    """Send a request, whose pseudo headers are among `headers`, and return status, headers and body; raises Unanswered."""
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                return await _talk(reader, writer, headers, body)
            finally:
                writer.transport.abort()
    except TimeoutError:
        raise Unanswered(f"no answer in HTTP/2 within {timeout_s:g} s") from None
    except OSError as error:
        raise Unanswered(f"no answer in HTTP/2: {error}") from None


async def _talk(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, headers: Mapping[str, str], body: bytes
) -> tuple[int, dict[str, str], bytes]:
    connection_module, events = load("h2.connection"), load("h2.events")
    errors = load("h2.exceptions")
    connection = connection_module.H2Connection()
    connection.initiate_connection()
    stream = connection.get_next_available_stream_id()
    connection.send_headers(stream, list(headers.items()))
    connection.send_data(stream, body, end_stream=True)
    writer.write(connection.data_to_send())
    answered: dict[str, str] = {}
    received = bytearray()
    while data := await reader.read(READ_BYTES):
        try:
            happened = connection.receive_data(data)
        except errors.ProtocolError as error:
            raise Unanswered(f"the gateway does not speak HTTP/2: {error}") from None
        writer.write(connection.data_to_send())
        for event in happened:
            if isinstance(event, events.ResponseReceived):
                answered = {_text(name): _text(value) for name, value in event.headers}
            elif isinstance(event, events.DataReceived):
                received += event.data
                connection.acknowledge_received_data(len(event.data), stream)
            elif isinstance(event, events.StreamEnded):
                return int(answered.pop(":status", "0")), answered, bytes(received)
            elif isinstance(event, (events.StreamReset, events.ConnectionTerminated)):
                raise Unanswered(f"the gateway ended the HTTP/2 stream: {type(event).__name__}")
    raise Unanswered("the gateway closed the connection in HTTP/2")


def _text(value: bytes | str) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else value
