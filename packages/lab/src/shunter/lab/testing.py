"""Model servers for tests: a real HTTP server with a real engine model, in this process, on a free port.

::

    async with lab_server(speed=100, max_num_seqs=4) as server:
        ...  # server.url, server.port, server.engine, server.fingerprint
        server.break_with("metrics-hang")
        server.mend()

What is not a parameter of the server is one of the engine (`EngineParams`); an unknown name is an error with near matches.

A `Control` ends a server and starts it again. On a `LeapingLoop`, server and clients of one process need not wait for the
engine: its clock leaps.
"""

from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from shunter.lab.core.params import params_from
from shunter.lab.dialects import DIALECTS
from shunter.lab.faults import FAULTS, Fault
from shunter.lab.shell.control import Control
from shunter.lab.shell.leaping import LeapingLoop
from shunter.lab.shell.server import LabServer

__all__ = ["DIALECTS", "FAULTS", "Control", "Fault", "LabServer", "LeapingLoop", "lab_server"]


@asynccontextmanager
async def lab_server(
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    models: Iterable[str] = ("lab/llama-3-8b",),
    loras: Iterable[str] = (),
    enable_lora: bool | None = None,
    prompt_tokens_details: bool = False,
    name: str | None = None,
    faults: Iterable[str] = (),
    kv_events_port: int | None = None,
    kv_replay_port: int | None = None,
    data_parallel_size: int = 1,
    dialect: str = "lab",
    admin: bool = False,
    ec_storage: Path | None = None,
    **engine: Any,
) -> AsyncGenerator[LabServer, None]:
    """A server that listens when the block begins and is gone when it ends. Requests still running then end as `abort`."""
    server = LabServer(
        params_from(engine),
        host=host,
        port=port,
        models=models,
        loras=loras,
        enable_lora=enable_lora,
        prompt_tokens_details=prompt_tokens_details,
        name=name,
        faults=faults,
        kv_events_port=kv_events_port,
        kv_replay_port=kv_replay_port,
        data_parallel_size=data_parallel_size,
        dialect=dialect,
        admin=admin,
        ec_storage=ec_storage,
    )
    async with server:
        yield server
