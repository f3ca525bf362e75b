"""Headers of requests: those that a client must not be able to play with, and those that must not be lost."""

from shunter.conformance.core.case import Case, Level
from shunter.conformance.errors import Mismatch
from shunter.conformance.sections.pickers.asking import ANSWERS, DESTINATION, PROMPT, ask, pick, request
from shunter.conformance.sections.pickers.stream import PICKS, PROTOCOL
from shunter.conformance.sections.pickers.target import Target

__all__ = ["CASES", "SPOOFED"]

REFERENCE = "GIE reference picker, pkg/epp/handlers"

# Documentation addresses (RFC 5737): nobody's endpoint.
SPOOFED = "192.0.2.1:80"

# Envoy's own limit is 100; gateways before browsers with many cookies raise it.
MANY = 500

REQUEST_ID = "x-request-id"


async def spoofed(target: Target) -> str:
    answered = await ask(target, request(PROMPT, headers=((DESTINATION, SPOOFED.encode()),)))
    if SPOOFED in answered.destination.split(","):
        raise Mismatch("an endpoint of the pool, whatever the client says", f"{DESTINATION}: {answered.destination}")
    if any(each.appends for each in answered.head.sets if each.name.lower() == DESTINATION):
        raise Mismatch("a header that takes the place of the client's", "one that is appended to it, and the first one counts")
    return f"{DESTINATION}: {answered.destination}"


async def request_id(target: Target) -> str:
    value = (await ask(target, request(PROMPT))).head.header(REQUEST_ID)
    if not value:
        raise Mismatch(f"a new {REQUEST_ID} for a request without one", "none")
    return f"{REQUEST_ID}: {value}"


async def request_id_kept(target: Target) -> str:
    head = (await ask(target, request(PROMPT, headers=((REQUEST_ID, b"exam-7"),)))).head
    value = head.header(REQUEST_ID)
    if value not in {None, "exam-7"} or REQUEST_ID in head.removes:
        raise Mismatch(f"{REQUEST_ID}: exam-7 left as it is", f"{REQUEST_ID}: {value}")
    return "left as it is"


async def many(target: Target) -> str:
    headers = [(f"x-exam-{at}", b"a cookie, say") for at in range(MANY)]
    return f"{MANY} headers: {await pick(target, headers=headers)}"


async def octets(target: Target) -> str:
    return await pick(target, headers=(("x-exam", b"Z\xfcrich \xff"),))


CASES: tuple[Case[Target], ...] = (
    Case(
        id="ep.headers.spoofed",
        level=Level.MUST,
        requirement=f"The picker MUST overwrite a header {DESTINATION} that the client sent.",
        why="Whoever can name the endpoint can make the gateway connect to any address that it reaches.",
        source=PROTOCOL,
        run=spoofed,
        needs=PICKS,
        bounds=(ANSWERS,),
    ),
    Case(
        id="ep.headers.request-id",
        level=Level.SHOULD,
        requirement=f"The picker SHOULD give a request without {REQUEST_ID} one.",
        why="Its logs and those of the model server are brought together by it.",
        source=REFERENCE,
        run=request_id,
        needs=PICKS,
        bounds=(ANSWERS,),
    ),
    Case(
        id="ep.headers.request-id-kept",
        level=Level.SHOULD,
        requirement=f"The picker SHOULD leave a {REQUEST_ID} as it is.",
        why="The client, or a gateway before this one, has written it into its log already.",
        source=REFERENCE,
        run=request_id_kept,
        needs=PICKS,
        bounds=(ANSWERS,),
    ),
    Case(
        id="ep.headers.many",
        level=Level.SHOULD,
        requirement=f"The picker SHOULD pick for a request with {MANY} headers.",
        why="How many a request may have is the gateway's decision.",
        source=REFERENCE,
        run=many,
        needs=PICKS,
        bounds=(ANSWERS,),
    ),
    Case(
        id="ep.headers.octets",
        level=Level.MUST,
        requirement="The picker MUST pick for a request with a header that is not UTF-8.",
        why="HTTP allows such octets, and Envoy hands them on; one client must not be able to fail the streams of a picker.",
        source="RFC 9110 section 5.5",
        run=octets,
        needs=PICKS,
        bounds=(ANSWERS,),
    ),
)
