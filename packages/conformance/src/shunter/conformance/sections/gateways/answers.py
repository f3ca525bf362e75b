"""Answers: the client gets what the server said, or what the picker said in its place, as it was said."""

from hashlib import sha256

from shunter.conformance.core.case import Bound, Case, Level
from shunter.conformance.errors import Mismatch, Unanswered
from shunter.conformance.sections.gateways.picks import EACH, ONCE, PROTOCOL
from shunter.conformance.sections.gateways.profile import RESPONSE_BODY, RESPONSE_HEADERS, SERVED
from shunter.conformance.sections.gateways.target import Target
from shunter.conformance.sections.gateways.trial import Immediate, Pick, Pool, Reply, Trouble

__all__ = ["CASES", "PASSED_ON", "SERVED_TOLD", "UNBUFFERED", "make_events"]

PASSED_ON = Bound("passed-on", 3.0, "a gateway passes on what it gets within milliseconds; one that waits for more never does")

NOTICED = Bound("noticed", 5.0, "a connection that is closed is seen at once, a busy machine's included")

EVENT = b'data: {"choices":[{"text":"x"}]}\n\n'

LARGE_BYTES = 4_000_000


def make_events(count: int) -> tuple[bytes, ...]:
    """Events of a stream, no two alike, of sizes from tens of bytes to some KB."""
    return tuple(b"data: %b\n\n" % (sha256(bytes([at])).hexdigest().encode() * (1 + at % 40)) for at in range(count))


STATUSES = (400, 404, 422, 500)


async def status(target: Target) -> str:
    pick = target.servers(Pool.CLOSE)[-1]
    for code in STATUSES:
        body = b'{"error":{"code":%d}}' % code
        trial = await target.ask(Pool.CLOSE, pick, reply=Reply((body,), code, {"x-exam-answer": "mine"}))
        trial.expect_served(pick, status=code)
        got = (trial.exchange.body, trial.exchange.headers.get("x-exam-answer"))
        if got != (body, "mine"):
            raise Mismatch(f"the server's body and headers with its {code}", f"{got}")
    return f"{', '.join(map(str, STATUSES))} of a server reached the client with body and headers, after one attempt"


async def immediate(target: Target) -> str:
    answers = (
        Immediate(429, {"retry-after": "7", "x-exam-reason": "saturated"}, b'{"error":"saturated"}'),
        Immediate(503, {"x-exam-reason": "empty"}, b'{"error":"no endpoints"}'),
        Immediate(400, {}, b"no model"),
    )
    for pool in Pool:
        for answer in answers:
            trial = await target.ask(pool, answer)
            got = trial.exchange
            if trial.arrived or got.status != answer.status:
                raise Mismatch(f"the picker's {answer.status}, and no server asked", trial.said())
            if got.body != answer.body or any(got.headers.get(name) != text for name, text in answer.headers.items()):
                raise Mismatch(f"{answer.headers} and {answer.body!r} with the {answer.status}", f"{got.headers}, {got.body!r}")
    return f"{', '.join(str(answer.status) for answer in answers)} of the picker reached the client as they were, in both pools"


async def unbuffered(target: Target) -> str:
    pieces = make_events(8)
    async with target.streaming(Pool.OPEN, reply=Reply(pieces, stream=True, held=True)) as stream:
        for piece in pieces:
            # The next one is sent when this one has come: who waits for it waits for ever.
            if await stream.read(len(piece), PASSED_ON) != piece:
                raise Mismatch("the events as they were sent", "other bytes")
            stream.trial.let_go()
        await stream.rest()
    return f"each of {len(pieces)} events came before the next was sent"


async def order(target: Target) -> str:
    pieces = make_events(200)
    async with target.streaming(Pool.OPEN, reply=Reply(pieces, stream=True)) as stream:
        got = await stream.rest()
    wanted = b"".join(pieces)
    if got != wanted:
        raise Mismatch(f"the {len(wanted)} bytes of {len(pieces)} events, in order", f"{len(got)} bytes that differ")
    return f"{len(pieces)} events of {len(wanted)} bytes came in order, and nothing else"


async def large(target: Target) -> str:
    body = make_events(1)[0] * (LARGE_BYTES // len(make_events(1)[0]))
    trial = await target.ask(Pool.OPEN, reply=Reply((body,)))
    if trial.exchange.body != body:
        raise Mismatch(f"an answer of {len(body)} bytes", f"{len(trial.exchange.body)} bytes, or others")
    return f"an answer of {len(body)} bytes came byte for byte"


async def cut(target: Target) -> str:
    pieces = make_events(2)
    async with target.streaming(Pool.OPEN, reply=Reply(pieces, stream=True, held=True, cut=True)) as stream:
        await stream.read(len(pieces[0]), PASSED_ON)
        stream.trial.let_go()
        try:
            await stream.rest()
        except Unanswered as broken:
            if len(stream.trial.arrived) != 1:
                raise Mismatch("one attempt, of which a part has been answered", stream.trial.said()) from None
            return f"a server that died in the middle: {broken}"
    raise Mismatch("an answer that breaks off as the server's did", "an end as if it were complete")


async def hang_up(target: Target) -> str:
    async with target.streaming(Pool.OPEN, reply=Reply((EVENT, EVENT), stream=True, held=True)) as stream:
        await stream.read(len(EVENT), PASSED_ON)
        stream.hang_up()
        trial = stream.trial
        took_s = await target.until(trial.arrival.left.is_set, NOTICED, "the server's connection to end")
        took_s += await target.until(
            lambda: all(each.over.is_set() for each in trial.asked), NOTICED, "the picker's stream to end"
        )
    return f"server and picker heard of it {took_s:.2f} s after the client hung up"


async def hang_up_waiting(target: Target) -> str:
    async with target.streaming(Pool.CLOSE, Trouble.HANG) as stream:
        trial = stream.trial
        await target.until(lambda: bool(trial.asked), PASSED_ON, "a question to the picker")
        stream.hang_up()
        took_s = await target.until(trial.question.over.is_set, NOTICED, "the picker's stream to end")
    if trial.arrived:
        raise Mismatch("no request to a server", trial.said())
    return f"the picker heard of it {took_s:.2f} s after a client hung up that it kept waiting"


async def served(target: Target) -> str:
    for pick in target.servers(Pool.OPEN):
        trial = await target.ask(Pool.OPEN, pick)
        trial.expect_served(pick)
        if trial.question.served != pick:
            raise Mismatch(f"{pick} told to the picker as the one who served", f"{trial.question.served}")
    return "the picker was told with each response who served"


async def response_headers(target: Target) -> str:
    pick = target.servers(Pool.OPEN)[-1]
    trial = await target.ask(Pool.OPEN, Pick((pick,), response_headers={"x-exam-session": "token"}))
    got = trial.exchange.headers.get("x-exam-session")
    if got != "token":
        raise Mismatch("the header that the picker set on the response", f"{got}")
    return "a header that the picker set on the response reached the client"


async def response_body(target: Target) -> str:
    pick = target.servers(Pool.OPEN)[-1]
    body = b'{"model":"another"}'
    trial = await target.ask(Pool.OPEN, Pick((pick,), response_body=body))
    if trial.exchange.body != body:
        raise Mismatch(f"the picker's {body!r}", f"{trial.exchange.body!r}")
    return "a body that the picker put in the place of the server's reached the client"


STATUS = Case(
    id="gw.answer.errors",
    level=Level.MUST,
    requirement="A server's own error (400, 404, 422, 500) MUST reach the client as it is, after one attempt.",
    why="A request that is wrong is wrong everywhere, and the body says why.",
    source="RFC 9110 §15; RFC 9110 §9.2.2 (POST is not idempotent)",
    needs=(EACH.id,),
    run=status,
)

IMMEDIATE = Case(
    id="gw.answer.immediate",
    level=Level.MUST,
    requirement="A picker's own answer MUST reach the client with status, headers and body, and no server be asked.",
    why="It is how a picker sheds load, also in a pool that fails open: the client must learn when to come again.",
    source=f"{PROTOCOL}, ImmediateResponse 429 and 503",
    needs=(EACH.id,),
    run=immediate,
)

UNBUFFERED = Case(
    id="gw.answer.unbuffered",
    level=Level.MUST,
    requirement="Each event of a stream MUST be passed on before the next one comes.",
    why="Users read while the model writes; that is what streaming is for.",
    source=f"{PROTOCOL}; OpenAI API reference, stream",
    needs=(EACH.id,),
    bounds=(PASSED_ON,),
    run=unbuffered,
)

ORDER = Case(
    id="gw.answer.order",
    level=Level.MUST,
    requirement="The bytes of a stream MUST reach the client as they were sent, in order, to the end.",
    why="Text out of order is worse than none.",
    source="RFC 9112 §7; Envoy ext_proc, StreamedBodyResponse",
    needs=(EACH.id,),
    run=order,
)

LARGE = Case(
    id="gw.answer.large",
    level=Level.MUST,
    requirement="An answer of 4 MB MUST reach the client byte for byte.",
    why="Embeddings of a batch and images are of this size.",
    source="RFC 9112 §6",
    needs=(ORDER.id,),
    run=large,
)

CUT = Case(
    id="gw.answer.cut",
    level=Level.MUST,
    requirement="An answer that breaks off at the server MUST break off at the client, and not be asked for again.",
    why="A clean end would pass half an answer for a whole one; a second attempt would begin it anew.",
    source="RFC 9112 §8",
    needs=(UNBUFFERED.id,),
    bounds=(PASSED_ON,),
    run=cut,
)

HANG_UP = Case(
    id="gw.answer.hang-up",
    level=Level.MUST,
    requirement="When a client hangs up in the middle of a stream, server and picker MUST hear of it.",
    why="Otherwise the model goes on writing for nobody, and the picker counts load that is gone.",
    source=f"{PROTOCOL}; RFC 9110 §7.7",
    needs=(UNBUFFERED.id,),
    bounds=(PASSED_ON, NOTICED),
    run=hang_up,
)

HANG_UP_WAITING = Case(
    id="gw.answer.hang-up-waiting",
    level=Level.MUST,
    requirement="When a client hangs up before the picker chooses, the picker MUST hear of it, and no server be asked.",
    why="A queue of clients that have left is what a picker's flow control must not be full of.",
    source=f"{PROTOCOL}, flow control",
    needs=(EACH.id,),
    bounds=(PASSED_ON, NOTICED),
    run=hang_up_waiting,
)

SERVED_TOLD = Case(
    id="gw.answer.served-told",
    level=Level.MUST,
    requirement="The picker MUST be told with the response which endpoint served.",
    why="After a fallback it is not the one that the picker counts on.",
    source=f"{PROTOCOL} 1.0, x-gateway-destination-endpoint-served",
    features=(SERVED,),
    needs=(ONCE.id,),
    run=served,
)

HEADERS = Case(
    id="gw.answer.headers-changed",
    level=Level.MUST,
    requirement="What the picker does to response headers MUST be done.",
    why="Sessions are kept by a token that the picker gives the client.",
    source="Envoy ext_proc, response_header_mode SEND",
    features=(RESPONSE_HEADERS,),
    needs=(EACH.id,),
    run=response_headers,
)

BODY = Case(
    id="gw.answer.body-changed",
    level=Level.MUST,
    requirement="What the picker does to response bodies MUST be done.",
    why="A model that was rewritten on the way in gets its name back on the way out.",
    source="Envoy ext_proc, response_body_mode FULL_DUPLEX_STREAMED",
    features=(RESPONSE_BODY,),
    needs=(EACH.id,),
    run=response_body,
)

CASES = (
    STATUS,
    IMMEDIATE,
    UNBUFFERED,
    ORDER,
    LARGE,
    CUT,
    HANG_UP,
    HANG_UP_WAITING,
    SERVED_TOLD,
    HEADERS,
    BODY,
)
