"""Serve the floor as an ext_proc picker: ``python -m hack.bench.floor PORT ENDPOINT...``."""

import asyncio
import gc
import sys

import uvloop
from hack.bench.floor.exchange import Floor
from hack.bench.floor.http2 import Connection

from shunter.picker.shell.allocator import keep_large_blocks


async def serve(port: int, endpoints: list[str]) -> None:
    floor = Floor(endpoints)
    server = await asyncio.get_running_loop().create_server(
        lambda: Connection(floor.open_call), "127.0.0.1", port, backlog=1024
    )
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 50)  # next to nothing here is a cycle
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    keep_large_blocks()
    uvloop.run(serve(int(sys.argv[1]), sys.argv[2:]))
