"""Requests: what the client sends reaches the picker and the server as it was sent, unless the picker changes it."""

from functools import cache

from shunter.conformance.core.case import Bound, Case, Level
from shunter.conformance.errors import Mismatch
from shunter.conformance.sections.gateways.picks import EACH, PROTOCOL
from shunter.conformance.sections.gateways.profile import HTTP2
from shunter.conformance.sections.gateways.target import PROMPT, Target
from shunter.conformance.sections.gateways.trial import TRIAL, Pick, Pool, Trial

__all__ = ["CASES", "LARGE", "make_body"]

# A chat, a chat with a long history, and one with images. Between the first and the last lie the limits that gateways have:
# 32 KiB of connection buffers, 62 KB of a picker's chunk, 64 KiB of a window, 1 MiB of retry buffers.
SIZES_BYTES = (1_000, 100_000)
LARGE_BYTES = 10_000_000

LARGE_PICKED = Bound(
    "large-picked",
    30.0,
    "the gateway's own limit for a pick is shorter; who meets it only at times is told from who never does",
)

BLOCK_BYTES = 64


@cache
def make_body(size_bytes: int) -> bytes:
    """A JSON body of about this size, in which no two blocks are alike, so that what is lost or moved shows."""
    return PROMPT.replace(b"which track?", b"".join(b"%0*d" % (BLOCK_BYTES, at) for at in range(size_bytes // BLOCK_BYTES)))


def _expect_body(trial: Trial, wanted: bytes) -> None:
    got = trial.arrival.body
    if got != wanted:
        same = next(
            (at for at, (one, other) in enumerate(zip(got, wanted, strict=False)) if one != other), min(len(got), len(wanted))
        )
        raise Mismatch(f"the {len(wanted)} bytes of the body at the server", f"{len(got)} bytes, the first wrong one at {same}")


async def _send(target: Target, pool: Pool, size_bytes: int) -> Trial:
    body, pick = make_body(size_bytes), target.servers(pool)[-1]
    trial = await target.ask(pool, pick, body=body)
    trial.expect_served(pick)
    _expect_body(trial, body)
    return trial


async def intact(target: Target) -> str:
    for pool in Pool:
        for size in SIZES_BYTES:
            await _send(target, pool, size)
    return f"bodies of {' and '.join(f'{size // 1000} KB' for size in SIZES_BYTES)} arrived byte for byte"


async def large(target: Target) -> str:
    for pool in Pool:
        trial = await _send(target, pool, LARGE_BYTES)
        if trial.exchange.elapsed_s > target.seconds(LARGE_PICKED):
            raise Mismatch(f"an answer within {target.seconds(LARGE_PICKED):g} s", f"{trial.exchange.elapsed_s:.1f} s")
    return f"bodies of {LARGE_BYTES // 1_000_000} MB arrived byte for byte"


async def seen(target: Target) -> str:
    for size in SIZES_BYTES:
        body = make_body(size)
        trial = await target.ask(Pool.OPEN, target.servers(Pool.OPEN)[-1], body=body)
        asked = bytes(trial.question.body)
        if asked != body:
            raise Mismatch(f"a body of {len(body)} bytes at the picker", f"{len(asked)} bytes, not the same")
    return "the picker was sent each body, byte for byte"


async def headers(target: Target) -> str:
    pick = target.servers(Pool.OPEN)[-1]
    sent = {"x-exam-kept": "kept", "x-exam-replaced": "old", "x-exam-removed": "old"}
    choice = Pick((pick,), {"x-exam-added": "new", "x-exam-replaced": "new"}, ("x-exam-removed",))
    trial = await target.ask(Pool.OPEN, choice, headers=sent)
    trial.expect_served(pick)
    wanted = {"x-exam-kept": "kept", "x-exam-replaced": "new", "x-exam-removed": None, "x-exam-added": "new"}
    got = {name: trial.arrival.headers.get(name) for name in wanted}
    if got != wanted:
        raise Mismatch(f"headers {wanted} at the server", f"{got}")
    return "headers that the picker added, replaced and removed, and one that it left alone, came so to the server"


async def rewritten(target: Target) -> str:
    pick = target.servers(Pool.OPEN)[-1]
    for size in (len(PROMPT) - 12, 200_000):  # shorter and longer than what was sent
        body = make_body(size)
        trial = await target.ask(Pool.OPEN, Pick((pick,), body=body))
        trial.expect_served(pick)
        _expect_body(trial, body)
    return "bodies that the picker put in the place of the client's, a shorter and a longer one, arrived byte for byte"


async def request_id(target: Target) -> str:
    name = "x-request-id"
    trial = await target.ask(Pool.OPEN)
    trial.expect_served(target.servers(Pool.OPEN)[0])
    asked, got = trial.question.headers.get(name), trial.arrival.headers.get(name)
    if not got or asked != got:
        raise Mismatch(f"one {name} at picker and server, where the client sends none", f"{asked!r} and {got!r}")
    return f"{name} {got} at picker and server"


async def same_headers(target: Target) -> str:
    """The trial's own header is how everybody knows the request; here it is the subject."""
    trial = await target.ask(Pool.OPEN)
    trial.expect_served(target.servers(Pool.OPEN)[0])
    places = {"picker": trial.question.headers, "server": trial.arrival.headers}
    for place, names in places.items():
        if names.get("content-type") != "application/json" or TRIAL not in names:
            raise Mismatch(f"the client's headers at the {place}", f"{sorted(names)}")
    path = trial.question.headers.get(":path")
    if path != trial.arrival.path:
        raise Mismatch(f"the path {trial.arrival.path} at the picker", f"{path}")
    return "picker and server got the client's headers and path"


async def http2(target: Target) -> str:
    for pool in Pool:
        pick = target.servers(pool)[-1]
        (await target.ask_http2(pool, pick)).expect_served(pick)
    return "requests in HTTP/2 went where the picker said"


INTACT = Case(
    id="gw.request.body",
    level=Level.MUST,
    requirement="Bodies of 1 KB and of 100 KB MUST reach the server byte for byte.",
    why="Histories and documents are of this size; buffers of gateways begin at 32 KiB.",
    source=f"{PROTOCOL}: bodies pass through the picker in chunks",
    needs=(EACH.id,),
    run=intact,
)

LARGE = Case(
    id="gw.request.large-body",
    level=Level.MUST,
    requirement="A body of 10 MB MUST reach the server byte for byte, within the time that a pick may take.",
    why="Prompts carry images and long contexts.",
    source=f"{PROTOCOL}: bodies pass through the picker in chunks",
    needs=(INTACT.id,),
    bounds=(LARGE_PICKED,),
    run=large,
)

SEEN = Case(
    id="gw.request.body-asked",
    level=Level.MUST,
    requirement="The picker MUST be sent the whole body, byte for byte, before it has to choose.",
    why="Model and prompt are in the body; a picker that does not see them chooses blindly.",
    source=f"{PROTOCOL}, request_body_mode",
    needs=(EACH.id,),
    run=seen,
)

HEADERS_SEEN = Case(
    id="gw.request.headers-asked",
    level=Level.MUST,
    requirement="The picker MUST be sent path and headers of the request, and the server the same.",
    why="Objectives, sessions and fairness are told in headers.",
    source=f"{PROTOCOL}, request_header_mode SEND",
    needs=(EACH.id,),
    run=same_headers,
)

HEADERS = Case(
    id="gw.request.headers-changed",
    level=Level.MUST,
    requirement="What the picker does to request headers MUST be done: set, replace, remove.",
    why="Prefill endpoints, trace contexts and session marks travel in headers that the picker sets.",
    source="Envoy ext_proc, HeaderMutation",
    needs=(EACH.id,),
    run=headers,
)

REWRITTEN = Case(
    id="gw.request.body-changed",
    level=Level.MUST,
    requirement="A body that the picker puts in the place of the client's MUST reach the server whole, shorter or longer.",
    why="A picker rewrites the model's name; a length that is wrong hangs or cuts the request.",
    source="GIE InferenceModelRewrite; Envoy ext_proc, BodyMutation",
    needs=(INTACT.id, SEEN.id),
    run=rewritten,
)

REQUEST_ID = Case(
    id="gw.request.id",
    level=Level.SHOULD,
    requirement="Picker and server SHOULD see the same x-request-id, also where the client sends none.",
    why="It is what the logs of gateway, picker and server have in common.",
    source="Envoy HTTP connection manager, x-request-id; llm-d-router makes one where there is none",
    needs=(EACH.id,),
    run=request_id,
)

IN_HTTP2 = Case(
    id="gw.request.http2",
    level=Level.SHOULD,
    requirement="Requests in HTTP/2 SHOULD be taken, and go where the picker says.",
    why="Clients with many requests at once keep one connection.",
    source="Gateway API, HTTPRoute: HTTP/2 with prior knowledge",
    features=(HTTP2,),
    needs=(EACH.id,),
    run=http2,
)

CASES = (INTACT, LARGE, SEEN, HEADERS_SEEN, HEADERS, REWRITTEN, REQUEST_ID, IN_HTTP2)
