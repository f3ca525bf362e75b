"""Model servers that the exam plays: a metrics page of a dialect that says what a case wants, and answers to whatever comes."""

from collections import deque
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from aiohttp import web

from shunter.conformance.core.addresses import split_address, with_port
from shunter.conformance.core.signals import Role
from shunter.conformance.errors import UsageError
from shunter.conformance.sections.servers.profile import ServerProfile

__all__ = ["ANSWER", "TURN", "PlayedServer", "play"]

TURN = "x-exam-turn"
"""The header by which what the exam has sent is told from what comes late, and from what pickers ask for."""

ANSWER = (
    b'{"id":"exam","object":"chat.completion","created":0,"model":"exam","choices":[{"index":0,"message":{"role":"assistant",'
    b'"content":"left"},"finish_reason":"stop"}],"usage":{"prompt_tokens":4,"completion_tokens":2,"total_tokens":6}}'
)
MODELS = b'{"object":"list","data":[{"id":"exam","object":"model","owned_by":"exam"}]}'

# Nobody looks at more than the last one.
KEPT = 4

# What vLLM says of itself in labels: from there pickers learn how its cache is cut.
CACHE = 'vllm:cache_config_info{block_size="16",num_gpu_blocks="8192"} 1'


class PlayedServer:
    """One of them; see `sections.pickers.target.Server`. `arrived`: the turn and the body of what reached it last."""

    def __init__(self, address: str, dialect: ServerProfile) -> None:
        self.address = address
        self.waiting = self.running = self.scrapes = 0
        self.kv_usage = 0.1
        self.adapters: tuple[str, ...] = ()
        self.max_adapters = 4
        self.arrived: deque[tuple[str, bytes]] = deque(maxlen=KEPT)
        self._dialect = dialect

    def page(self) -> str:
        """The metrics page as it is now."""
        model = {self._dialect.model_label: "exam"} if self._dialect.model_label else {}
        engine = {self._dialect.engine_label: "0"} if self._dialect.engine_label else {}
        values = {Role.QUEUE: self.waiting, Role.RUNNING: self.running, Role.KV: self.kv_usage}
        lines: list[str] = []
        for role, signal in self._dialect.signals.items():
            labels = ",".join(f'{name}="{value}"' for name, value in (signal.labels | model | engine).items())
            lines += [f"# TYPE {signal.family} gauge", f"{signal.family}{{{labels}}} {values[role]}"]
        if self._dialect.adapters and (info := self._dialect.adapters.info):
            names = ",".join(self.adapters)
            labels = f'max_lora="{self.max_adapters}",running_lora_adapters="{names}",waiting_lora_adapters=""'
            lines += [f"# TYPE {info.family} gauge", f"{info.family}{{{labels}}} 1"]
        if self._dialect.name == "vllm":
            lines += ["# TYPE vllm:cache_config_info gauge", CACHE]
        return "\n".join([*lines, ""])

    async def handle(self, request: web.BaseRequest) -> web.Response:
        """Answer whatever comes."""
        if request.path == self._dialect.metrics_path:
            self.scrapes += 1
            return web.Response(text=self.page(), headers={"content-type": "text/plain; version=0.0.4"})
        body = await request.read()
        self.arrived.append((request.headers.get(TURN, ""), body))
        if request.path == self._dialect.api.models:
            return web.Response(body=MODELS, content_type="application/json")
        return web.Response(body=ANSWER, content_type="application/json")


@asynccontextmanager
async def play(addresses: Sequence[str], dialect: ServerProfile) -> AsyncGenerator[tuple[PlayedServer, ...]]:
    """Listen at the addresses, `host:port`, at a free port where it is 0; raises UsageError where that is impossible."""
    async with AsyncExitStack() as listening:
        servers: list[PlayedServer] = []
        for address in addresses:
            host, port = split_address(address)
            server = PlayedServer(address, dialect)
            runner = web.ServerRunner(web.Server(server.handle, access_log=None), shutdown_timeout=0)
            await runner.setup()
            listening.push_async_callback(runner.cleanup)
            site = web.TCPSite(runner, host, port)
            try:
                await site.start()
            except OSError as error:
                raise UsageError(
                    f"--servers {address}: cannot listen there ({error.strerror or error}); "
                    "name free addresses of this machine, the ones that the picker was told of"
                ) from None
            server.address = with_port(address, runner.addresses[0][1])
            servers.append(server)
        yield tuple(servers)
