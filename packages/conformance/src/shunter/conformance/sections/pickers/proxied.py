"""Through a real Envoy: do its client and its model servers get what the picker said?"""

from shunter.conformance.core.case import Case, Level
from shunter.conformance.errors import Mismatch
from shunter.conformance.sections.pickers.asking import CHAT, DESTINATION, PROMPT, chat
from shunter.conformance.sections.pickers.headers import SPOOFED
from shunter.conformance.sections.pickers.stream import EXT_PROC, PICKS, same_body
from shunter.conformance.sections.pickers.target import PICKED, Target

__all__ = ["CASES"]

# More than one piece in each direction, and less than Envoy's buffers.
LARGE_BYTES = 400_000

POST = "ep.envoy.post"


async def post(target: Target) -> str:
    return await _send(target, PROMPT)


async def large(target: Target) -> str:
    return await _send(target, chat("x" * LARGE_BYTES))


async def spoofed(target: Target) -> str:
    return await _send(target, PROMPT, {DESTINATION: SPOOFED})


async def _send(target: Target, body: bytes, headers: dict[str, str] | None = None) -> str:
    """Whatever is sent has to arrive at one server of the pool, once, and its answer at the client."""
    proxy = target.proxy
    answer = await proxy.send("POST", CHAT, body, headers)
    answer.expect_status(200)
    arrived = proxy.arrived()
    if len(arrived) != 1 or not same_body(arrived[0][1], body):
        raise Mismatch(
            f"one request of {len(body)} bytes at a model server",
            ", ".join(f"{len(got)} bytes at {address}" for address, got in arrived) or "none",
        )
    address = arrived[0][0]
    picked = answer.headers.get(PICKED, "nobody")
    if picked.partition(",")[0] != address:
        raise Mismatch("the request where the picker's metadata say", f"they say {picked}, and it came to {address}")
    if answer.body != proxy.answer:
        raise Mismatch(f"the model server's answer, {len(proxy.answer)} bytes", f"{len(answer.body)} bytes")
    return f"{len(arrived[0][1])} bytes to {address}, {len(answer.body)} bytes back"


async def get(target: Target) -> str:
    proxy = target.proxy
    answer = await proxy.send("GET", "/v1/models")
    answer.expect_status(200)
    if not (arrived := proxy.arrived()):
        raise Mismatch("the request at a model server", "at none, though somebody answered HTTP 200")
    return f"HTTP 200 from {arrived[0][0]}"


async def refusal(target: Target) -> str:
    proxy = target.proxy
    answer = await proxy.send("POST", CHAT, b'{"model": "exam", "messages": [')
    if arrived := proxy.arrived():
        raise Mismatch("a refusal before any model server hears of the request", f"the request at {arrived[0][0]}")
    answer.expect_status(400)
    return f"HTTP 400: {answer.text!r}"


SERVES = (*PICKS, POST)

CASES: tuple[Case[Target], ...] = (
    Case(
        id=POST,
        level=Level.MUST,
        requirement="A request through Envoy MUST reach the chosen model server with its body, and the answer its client.",
        why="It is what all the rest is for.",
        source=EXT_PROC,
        run=post,
        needs=PICKS,
    ),
    Case(
        id="ep.envoy.get",
        level=Level.MUST,
        requirement="A request without a body MUST pass through Envoy.",
        why="Clients ask for the list of models first.",
        source=EXT_PROC,
        run=get,
        needs=(*SERVES, "ep.stream.no-body"),
    ),
    Case(
        id="ep.envoy.large",
        level=Level.MUST,
        requirement=f"A body of {LARGE_BYTES} bytes MUST pass through Envoy.",
        why="Long prompts are why prefixes are cached at all.",
        source=EXT_PROC,
        run=large,
        needs=SERVES,
    ),
    Case(
        id="ep.envoy.spoofed",
        level=Level.MUST,
        requirement="An endpoint that the client names MUST NOT be where Envoy connects to.",
        why="Whoever can name the endpoint reaches every address that the gateway reaches.",
        source=EXT_PROC,
        run=spoofed,
        needs=(*SERVES, "ep.headers.spoofed"),
    ),
    Case(
        id="ep.envoy.refusal",
        level=Level.MUST,
        requirement="The picker's refusal of a body MUST reach the client as it is, and no model server.",
        why="Half of a request at a model server costs as much as a whole one.",
        source=EXT_PROC,
        run=refusal,
        needs=(*SERVES, "ep.malformed.json"),
    ),
)
