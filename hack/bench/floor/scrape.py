"""The floor of scraping: keep-alive GETs into one buffer, three gauges by remembered offset.

``python -m hack.bench.floor.scrape MS HOST:PORT...``
"""

import asyncio
import sys

import uvloop

__all__ = ["Scrape"]

WANTED = (b"\nvllm:num_requests_waiting{", b"\nvllm:num_requests_running{", b"\nvllm:kv_cache_usage_perc{")
BUFFER_BYTES = 1 << 17  # a page is 56 KB


class Scrape(asyncio.BufferedProtocol):
    """One endpoint, asked again ``interval_s`` after it was asked last, if it has answered by then."""

    def __init__(self, host: str, interval_s: float) -> None:
        self.request = f"GET /metrics HTTP/1.1\r\nHost: {host}\r\nAccept-Encoding: identity\r\n\r\n".encode()
        self.interval_s = interval_s
        self.buffer = bytearray(BUFFER_BYTES)
        self.view = memoryview(self.buffer)
        self.offsets = [0] * len(WANTED)
        self.row = [0.0] * len(WANTED)
        self.received = self.expected = 0
        self.asked_s = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.loop = asyncio.get_running_loop()
        self.ask()

    def ask(self) -> None:
        self.asked_s = self.loop.time()
        self.received = self.expected = 0
        self.transport.write(self.request)  # a socket's transport

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002  the buffer is large enough
        return self.view[self.received :]

    def buffer_updated(self, nbytes: int) -> None:
        self.received += nbytes
        if not self.expected:
            end = self.buffer.find(b"\r\n\r\n", 0, self.received)
            if end < 0:
                return
            at = self.buffer.find(b"content-length: ", 0, end) + len(b"content-length: ")
            self.expected = end + 4 + int(self.buffer[at : self.buffer.find(b"\r\n", at)])
        if self.received >= self.expected:
            self.read()
            self.loop.call_later(max(0.0, self.asked_s + self.interval_s - self.loop.time()), self.ask)

    def read(self) -> None:
        for at, name in enumerate(WANTED):
            offset = self.offsets[at]
            if not self.buffer.startswith(name, offset):
                offset = self.offsets[at] = self.buffer.find(name, 0, self.received)
            end = self.buffer.find(b"\n", offset + 1)
            self.row[at] = float(self.buffer[self.buffer.rfind(b" ", offset, end) + 1 : end])


async def scrape(interval_s: float, authorities: list[str]) -> None:
    loop = asyncio.get_running_loop()
    for at, authority in enumerate(authorities):
        host, _, port = authority.rpartition(":")
        loop.call_later(
            interval_s * at / len(authorities),
            lambda host=host, port=int(port): loop.create_task(
                loop.create_connection(lambda: Scrape(host, interval_s), host, port)
            ),
        )
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(scrape(int(sys.argv[1]) / 1000, sys.argv[2:]))
