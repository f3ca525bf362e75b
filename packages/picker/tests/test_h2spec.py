"""What h2spec, the examination everybody uses, says of the connection and of the server."""

import asyncio
import os
import re
import shutil
from pathlib import Path

import pytest
import trustme

from shunter.picker.core.limits import Budget, Limits
from shunter.picker.core.session import Session
from shunter.picker.testing import StubJudge
from shunter.picker.testing_h2 import Recorded, Reset, Trailers
from shunter.picker.transport import h2, hpack
from shunter.picker.transport.health import Health
from shunter.picker.transport.native import NativeServer
from shunter.picker.transport.tls import Tls


@pytest.fixture
def examine():
    """Run h2spec; return how many cases there are, were skipped and failed, and what it found."""
    in_tools = Path(os.environ.get("SHUNTER_TOOLS_DIR", ".tools")) / "bin" / "h2spec"
    program = str(in_tools) if in_tools.exists() else shutil.which("h2spec")
    if program is None:
        pytest.skip("h2spec is not there: go install github.com/summerwind/h2spec/cmd/h2spec@v2.2.1, or $SHUNTER_TOOLS_DIR/bin")

    async def examine(port, *more):
        arguments = ("--strict", "--port", str(port), "--timeout", "15", *more)
        process = await asyncio.create_subprocess_exec(program, *arguments, stdout=asyncio.subprocess.PIPE)
        report = (await process.communicate())[0].decode()
        counts = re.search(r"(\d+) tests, \d+ passed, (\d+) skipped, (\d+) failed", report)
        return *map(int, counts.groups()), report[report.find("Failures:") :]

    return examine


class Plain(asyncio.Protocol):
    """HTTP without gRPC: each request is answered by 20,000 bytes, when it has ended."""

    def connection_made(self, transport):
        self.transport = transport
        self.http = Recorded(h2.Terms(streams=100), self.answer)
        self.flush()

    @staticmethod
    def answer(http, event):
        if isinstance(event, Trailers) or (not isinstance(event, Reset) and event.end_stream):
            http.say_headers(event.stream_id, hpack.encode([(":status", "200")]))
            http.say_data(event.stream_id, bytes(20_000), end_stream=True)

    def data_received(self, data):
        self.http.hear(data)
        self.flush()

    def flush(self):
        self.transport.write(self.http.take())
        if self.http.done:
            self.transport.close()


async def test_h2spec_finds_nothing_in_the_connection(examine):
    server = await asyncio.get_running_loop().create_server(Plain, "127.0.0.1", 0)
    total, skipped, failed, report = await examine(server.sockets[0].getsockname()[1])
    server.close()
    assert (total, skipped, failed) == (146, 0, 0), report


@pytest.mark.parametrize("over_tls", [False, True], ids=["plain", "tls"])
async def test_h2spec_finds_nothing_in_the_server(examine, over_tls, tmp_path):
    tls = Tls(tmp_path / "tls.crt", tmp_path / "tls.key")
    issued = trustme.CA().issue_cert("127.0.0.1")
    issued.cert_chain_pems[0].write_to_path(tls.cert)
    issued.private_key_pem.write_to_path(tls.key)
    limits = Limits()
    budget = Budget(limits.buffered_bytes)
    server = NativeServer(lambda: Session(StubJudge(), limits, budget), Health(), limits, tls=tls if over_tls else None)
    port = await server.start("127.0.0.1", 0)
    try:
        total, _, failed, report = await examine(port, *(("--tls", "--insecure") if over_tls else ()))
    finally:
        await server.stop()
    assert (total, failed) == (146, 0), report
