"""Write docs/walk.md: one scrape and one request through real parts, every byte of it recorded by this run."""

import asyncio
import json
import platform
import tempfile
import time
from pathlib import Path

import msgspec

from shunter.envoyconf import bootstrap, load_intent
from shunter.envoyconf.shell.envoy import VERSION
from shunter.envoyconf.testing import running_envoy
from shunter.lab.testing import lab_server
from shunter.picker import config
from shunter.picker.shell.worker import Settings, Worker
from shunter.picker.transport import services
from shunter.scraper.core.dialect import DIALECTS
from shunter.scraper.core.exposition import Scanner
from shunter.scraper.core.fold import fold
from shunter.scraper.shell.fetch import Fetcher
from shunter.snapshot import Endpoint, Load, LoadRow, Pool, SnapshotWriter, Topology
from shunter.snapshot.ring import SLOT_HEADER_BYTES, SLOTS_AT

PAGE = Path(__file__).resolve().parents[1] / "docs" / "walk.md"
WANTED = ("vllm:num_requests_running{", "vllm:num_requests_waiting{", "vllm:kv_cache_usage_perc{", "vllm:cache_config_info{")


def hexdump(data, most=256):
    lines = []
    for at in range(0, min(len(data), most), 16):
        piece = data[at : at + 16]
        text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in piece)
        lines.append(f"{at:04x}  {piece.hex(' '):<47}  {text}")
    if len(data) > most:
        lines.append(f"…     {len(data) - most} bytes more")
    return "\n".join(lines)


def block(text, kind=""):
    return f"```{kind}\n{text.strip()}\n```\n"


def visible(data):
    return data.decode(errors="replace").replace("\r\n", "\n")


async def exchange(port, request, until=b""):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(
        (int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), None
    )
    body = await reader.readexactly(length) if length is not None else await reader.readuntil(until)
    writer.close()
    return head, body


class Tap:
    """A TCP relay in front of an engine that keeps what goes in."""

    def __init__(self, port):
        self.port = port
        self.heard = b""

    async def __aenter__(self):
        self.server = await asyncio.start_server(self.relay, "127.0.0.1", 0)
        self.listens = self.server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_):
        self.server.close()

    async def relay(self, reader, writer):
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self.port)

        async def pump(source, sink, keep):
            while data := await source.read(65536):
                if keep:
                    self.heard += data
                sink.write(data)
            sink.close()

        await asyncio.gather(pump(reader, there_writer, True), pump(there_reader, writer, False))


async def record():
    """Run everything once and return what was seen."""
    seen = {"messages": []}
    decode, encode = services.decode, services.encode

    def hear(message):
        event = decode(message)
        seen["messages"].append(("Envoy → picker", message, event))
        return event

    def say(reply):
        message = encode(reply)
        seen["messages"].append(("picker → Envoy", message, reply))
        return message

    services.decode, services.encode = hear, say
    with tempfile.TemporaryDirectory(prefix="shunter-walk-") as scratch:
        directory = Path(scratch)
        async with lab_server() as engine, Tap(engine.port) as tap:
            await scrape(seen, tap, directory)
            settings = Settings(snapshot=directory, port=0, health_port=0)
            worker = Worker(config.load().policy, settings)
            port = await worker.start()
            intent = {
                "pools": [
                    {
                        "name": "engines",
                        "endpoints": [f"127.0.0.1:{tap.listens}"],
                        "picker": {"addresses": [f"127.0.0.1:{port}"]},
                    }
                ],
                "listeners": [{"name": "gateway", "port": 0}],
                "observability": {"accessLog": "stdout", "servedHeader": True},
            }
            async with running_envoy(bootstrap(load_intent(json.dumps(intent)))) as envoy:
                port = int(envoy.url.rpartition(":")[2])
                body = b'{"model":"lab/llama-3-8b","messages":[{"role":"user","content":"Which track?"}],"max_tokens":4}'
                request = b"POST /v1/chat/completions HTTP/1.1\r\nhost: gateway\r\ncontent-type: application/json\r\n"
                request += b"x-gateway-destination-endpoint: 10.6.6.6:80\r\ncontent-length: %d\r\n\r\n" % len(body) + body
                seen["request"] = request
                seen["response"] = await exchange(port, request)
                while not (lines := envoy.access_log()) or not worker.judge.counters.tally().released:
                    await asyncio.sleep(0.02)
                seen["log"] = lines[0]
                seen["decision"] = worker.judge.decisions.latest(1)[0].explain()
            seen["engine"] = tap.heard
            await worker.drain()
    return seen


async def scrape(seen, tap, directory):
    fetcher = Fetcher("127.0.0.1", tap.listens, "/metrics", timeout_s=20)
    seen["page"] = page = await fetcher.get()
    fetcher.close()
    seen["get"], tap.heard = tap.heard, b""
    row = fold(Scanner().page(page), DIALECTS["vllm"], LoadRow(slot=0, incarnation=1), time.monotonic_ns())
    seen["row"] = row
    pool = Pool(name="engines", target_ports=(tap.listens,))
    endpoint = Endpoint(slot=0, incarnation=1, name="engine-0", address="127.0.0.1", port=tap.listens, pools=(0,))
    writer = SnapshotWriter(directory)
    topology = Topology(epoch=1, generation=1, pools=(pool,), endpoints=(endpoint,))
    writer.publish_topology(topology, time.monotonic_ns())
    load = Load.of([row], epoch=1, topology_generation=1, published_ns=time.monotonic_ns())
    writer.publish_load(load)
    writer.close()
    ring = (directory / "load.ring").read_bytes()
    slot = SLOTS_AT + (SLOT_HEADER_BYTES + (1 << 16))  # frame 1 is in slot 1
    length = int.from_bytes(ring[slot + 8 : slot + 16], "little")
    seen["ring_head"], seen["frame"] = ring[64:72], ring[slot : slot + SLOT_HEADER_BYTES + length]


def write(seen):
    """Tell it."""
    page = seen["page"].decode()
    kept = [line for line in page.splitlines() if line.startswith(WANTED)]
    head, body = seen["response"]
    text = f"""# One scrape and one request, with their bytes

<!-- Written by hack/gen_walk.py out of one run: Envoy {VERSION}, Python {platform.python_version()}, a lab server. -->

Everything below was recorded from one run of the real parts: a lab server (vLLM's interface), the scraper's core, the picker, and
Envoy {VERSION} with the bootstrap that `shunter envoyconf` generates for the profile `lean`.

## The scrape

The scraper asks without compression, because vLLM would spend 1.5 ms of its API loop on gzip:

{block(visible(seen["get"]))}
The page has {len(seen["page"]):,} bytes and {len(page.splitlines())} lines. Four families matter; the scanner finds them by name and reads nothing else
([exposition.py](../packages/scraper/src/shunter/scraper/core/exposition.py)):

{block(chr(10).join(line if len(line) < 120 else line[:117] + "…" for line in kept))}
The dialect `vllm` says what they mean, and `fold` makes one row of them. What the page does not say stays `None`:

{block(pretty(seen["row"]), "python")}
The row becomes a column entry of a `Load` snapshot, and the snapshot the next frame of `load.ring`: slot header (sequence, length,
time, checksum), then MessagePack. The frame is complete before the ring's sequence number, {int.from_bytes(seen["ring_head"], "little")}, is stored:

{block(hexdump(seen["frame"]))}
## The request

A client posts a chat request. It also tries to choose the endpoint itself:

{block(visible(seen["request"]))}
Envoy removes that header before anything looks at the request, opens a `Process` stream to the picker and tells what it has.
Because the profile is `lean`, it announces `BUFFERED` for the request's body and nothing for the response's:

"""
    for number, (who, message, value) in enumerate(seen["messages"], 1):
        text += f"**{number}. {who}**, {type(value).__name__}, {len(message)} bytes\n\n{block(hexdump(message))}\n"
        text += f"{block(pretty(value), 'python')}\n"
    text += f"""Between messages 3 and 4 the picker compared one number to learn whether the snapshot had moved, scored the candidates and
booked the request on the winner, so that the next pick already sees it. This is the whole account of the decision
(`shunter explain`, `/debug/decisions`):

{block(json.dumps(seen["decision"], indent=2), "json")}
Envoy takes the endpoint from the dynamic metadata, not from a header, and sends the request there. The client's wish is gone; the
header that arrives is the picker's:

{block(visible(seen["engine"]))}
The answer comes back. Nothing of it is sent to the picker:

{block(visible(head + body))}
When the response has ended Envoy ends the `Process` stream. That is all the picker needs to strike the request from its account.
Envoy's access log has the pick, who served, and the ticket that joins the line to the decision above:

{block(json.dumps(seen["log"], indent=2), "json")}"""
    PAGE.write_text(text)


def pretty(value):
    fields = msgspec.structs.asdict(value)
    lines = [f"    {name}={shorten(field)}," for name, field in fields.items()]
    return "\n".join([f"{type(value).__name__}(", *lines, ")"])


def shorten(field):
    if isinstance(field, list) and field and isinstance(field[0], tuple):
        return "[\n" + "".join(f"        {item!r},\n" for item in field) + "    ]"
    return repr(field) if len(repr(field)) <= 110 else repr(field)[:107] + "…"


if __name__ == "__main__":
    write(asyncio.run(record()))
    print(f"wrote {PAGE}")
