"""Real stacks for the end-to-end tests, and a client that sees what a user would see."""

import asyncio
import contextlib
import functools
import io
import json
import logging
import secrets
import time
from dataclasses import dataclass

import aiohttp
import pytest
from hack.kube import programs
from hack.kube.stage import running_stage

from shunter.envoyconf.errors import ToolMissingError
from shunter.envoyconf.shell import envoy
from shunter.envoyconf.testing_gateway import find_envoy_gateway, own_network, running_gateway
from shunter.envoyconf.testing_kube import find_crds, running_kube
from shunter.stack.testing import Running, running_stack
from shunter.stack.testing_kube import Administrator, Followed

DEADLINE_S = 30


@dataclass(frozen=True)
class Reply:
    """One answered chat request."""

    status: int
    headers: dict
    body: bytes
    request_id: str

    @property
    def events(self):
        """The JSON of each server-sent event; the stream must have ended with [DONE]."""
        lines = [line[6:] for line in self.body.decode().split("\n") if line.startswith("data: ")]
        assert lines[-1] == "[DONE]"
        return [json.loads(line) for line in lines[:-1]]

    @property
    def streamed(self):
        return self.headers["content-type"].startswith("text/event-stream")

    @property
    def text(self):
        if self.streamed:
            return "".join(c["delta"].get("content") or "" for event in self.events for c in event["choices"])
        return json.loads(self.body)["choices"][0]["message"]["content"]

    @property
    def fingerprint(self):
        """Which lab server answered: it says so itself."""
        return (self.events[-1] if self.streamed else json.loads(self.body))["system_fingerprint"]

    @property
    def served(self):
        """Which endpoint Envoy says answered."""
        return self.headers["x-gateway-destination-endpoint-served"]


class Client:
    """Talks to one gateway, or to whatever ``url`` says."""

    def __init__(self, stack: Running, session: aiohttp.ClientSession):
        self.stack = stack
        self.session = session

    async def post(self, data, *, headers=None, url=None, path="/v1/chat/completions"):
        request_id = f"e2e-{secrets.token_hex(8)}"
        sent = {"content-type": "application/json", "x-request-id": request_id, **(headers or {})}
        async with self.session.post((url or self.stack.gateway) + path, data=io.BytesIO(data), headers=sent) as response:
            body = await response.read()
            return Reply(response.status, {k.lower(): v for k, v in response.headers.items()}, body, request_id)

    async def chat(self, prompt, *, headers=None, url=None, **body):
        message = {
            "model": self.stack.state.plan.model,
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": 8,
        } | body
        return await self.post(json.dumps(message).encode(), headers=headers, url=url)

    async def log(self, request_id):
        """Envoy's access-log line of one request."""
        path = self.stack.directory / "access.log"

        def find():
            whole, _, _ = path.read_text().rpartition("\n") if path.exists() else ("", "", "")  # the last may be half written
            lines = whole.splitlines()
            return [line for line in map(json.loads, lines) if line["request_id"] == request_id]

        (line,) = await eventually(find)
        return line

    async def decision(self, request_id):
        """The picker's own account of one request."""
        (found,) = await eventually(lambda: [d for d in self.stack.decisions() if d.request_id == request_id])
        return found


async def eventually(ask, deadline_s=DEADLINE_S):
    """Return the first true answer of ``ask``."""
    deadline = time.monotonic() + deadline_s
    while not (answer := await asyncio.to_thread(ask)):
        assert time.monotonic() < deadline, f"still {answer!r} after {deadline_s} s"
        await asyncio.sleep(0.02)
    return answer


@pytest.fixture(name="eventually")
def _eventually():
    return eventually


@pytest.fixture(scope="session")
def lean():
    """The default stack, which tests leave as they found it."""
    with running_stack() as stack:
        yield stack


@pytest.fixture(scope="session")
def full():
    """The stack in the profile full, which tests leave as they found it."""
    with running_stack("--profile", "full") as stack:
        yield stack


@pytest.fixture(params=["lean", "full"])
def stack(request):
    """Both, one after the other."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def envoy_gateway():
    """Run the real Envoy Gateway: ``with envoy_gateway(documents)``. The module's tests are in a network of their own."""
    controller, binary = find_envoy_gateway(), envoy.find()
    if not controller or not binary:
        pytest.skip("no Envoy Gateway: put envoy-gateway 1.9 into $SHUNTER_TOOLS_DIR/bin, or on PATH")
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(own_network())
        except PermissionError:
            pytest.skip("no network namespace: Envoy Gateway has fixed ports, and only root can give it a network of its own")
        yield functools.partial(running_gateway, controller=controller, envoy=binary)


@pytest.fixture(scope="module")
def stage():
    """A Kubernetes cluster with Shunter's images; a module's own, with a network of its own, unless there is one already."""
    with contextlib.ExitStack() as stack:
        try:
            yield stack.enter_context(running_stage())
        except (programs.Missing, ToolMissingError) as missing:
            pytest.skip(f"{missing} (hack/kube/fetch, hack/kube/fetch-tools)")
        except PermissionError:
            pytest.skip("no network namespace: only root can give a cluster a network of its own")


@pytest.fixture
async def connect():
    """Make clients: ``connect(stack)``."""
    timeout = aiohttp.ClientTimeout(total=60)
    async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as session:
        yield lambda stack: Client(stack, session)


@pytest.fixture
async def client(connect, stack):
    return connect(stack)


@pytest.fixture(scope="session")
def admin():
    """The administrator of a real Kubernetes API with the CRDs of GIE and llm-d, each test in namespaces of its own."""
    try:
        with running_kube((*find_crds("gie_"), *find_crds("llmd_"))) as kube:
            yield Administrator(kube)
    except ToolMissingError as error:
        pytest.skip(str(error))


@pytest.fixture
def following():
    """Follow a namespace of an API: ``async with following(kubeconfig, namespace)``."""
    pytest.importorskip("kubernetes", reason="pip install 'shunter-scraper[kubernetes]'")
    from shunter.scraper.shell.kube.api import connect
    from shunter.scraper.shell.kube.registry import Kubernetes

    @contextlib.asynccontextmanager
    async def follow(kubeconfig, namespace, **options):
        open_before = open_transports()
        async with connect(kubeconfig) as api, Followed(Kubernetes(api, [namespace], **options)) as followed:
            yield followed
        # The client does not wait for the API's last word in TLS; a loop that ends before it leaves connections half open.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1):
                while open_transports() - open_before:  # noqa: ASYNC110  they tell nobody
                    await asyncio.sleep(0.001)

    return follow


def open_transports():
    return {*asyncio.get_running_loop()._transports.values()}  # nothing public knows


class Heard(logging.Handler):
    """Waits for words in the log."""

    def __init__(self) -> None:
        super().__init__()
        self._words = ""
        self._said = asyncio.Event()

    def emit(self, record):
        if self._words and self._words in record.getMessage():
            self._said.set()

    @contextlib.asynccontextmanager
    async def when(self, words):
        """Leave the block when something with these words has been logged since it began."""
        self._words = words
        self._said.clear()
        yield
        async with asyncio.timeout(DEADLINE_S * 2):
            await self._said.wait()


@pytest.fixture
async def heard(caplog):
    caplog.set_level(logging.INFO, "shunter.scraper")
    handler = Heard()
    logging.getLogger("shunter.scraper").addHandler(handler)
    yield handler
    logging.getLogger("shunter.scraper").removeHandler(handler)
