"""Section B, requests: whatever the API lets a client say in a request is understood."""

from shunter.conformance.core.case import Case, Level
from shunter.conformance.core.exchange import clip
from shunter.conformance.errors import Mismatch
from shunter.conformance.sections.servers.answers import Completion, Counted, Identified
from shunter.conformance.sections.servers.asking import PROMPT, ask_chat, ask_completion, completion_body
from shunter.conformance.sections.servers.openai import CHAT_FIELDS, COMPLETION_FIELDS, USAGE_SUM
from shunter.conformance.sections.servers.sampling import GREEDY
from shunter.conformance.sections.servers.saying import say
from shunter.conformance.sections.servers.target import Target

__all__ = ["CASES"]

# Tokens of an answer that a client wants short.
FEW = 3

# Above the ids that most vocabularies keep for control, within the smallest vocabulary.
TOKEN_IDS = tuple(range(40, 52))

REQUEST_ID = "shunter-conformance-4711"

# As many as a gateway sends over a connection of its pool within a second.
ON_ONE_CONNECTION = 100

SYSTEM: dict[str, object] = {"role": "system", "content": "You sort wagons. Be brief."}
TURNS: list[dict[str, object]] = [
    {"role": "user", "content": "Where does the first wagon go?"},
    {"role": "assistant", "content": "To track one."},
    {"role": "user", "content": PROMPT},
]

# Members that change nothing at these values; client libraries send them unasked.
IDLE: dict[str, object] = {"user": "shunter", "top_p": 1, "presence_penalty": 0, "frequency_penalty": 0, "logit_bias": {}}


async def _prompt_tokens(target: Target, messages: list[dict[str, object]]) -> int:
    exchange = await ask_chat(target, messages=messages)
    exchange.expect_status(200)
    return exchange.read(Counted).usage.prompt_tokens


async def chat_roles(target: Target) -> str:
    conversations = (TURNS[-1:], TURNS, [SYSTEM, *TURNS])
    alone, turns, all_of_it = [await _prompt_tokens(target, messages) for messages in conversations]
    if not alone < turns < all_of_it:
        raise Mismatch(
            "prompt_tokens that grow with earlier turns, and with a system message",
            f"{alone} for one message, {turns} with turns before it, {all_of_it} with a system message, too",
        )
    return f"prompt_tokens {alone}, {turns} with earlier turns, {all_of_it} with a system message, too"


async def chat_parts(target: Target) -> str:
    parts: list[dict[str, object]] = [{"role": "user", "content": [{"type": "text", "text": PROMPT}]}]
    wanted, got = await _prompt_tokens(target, TURNS[-1:]), await _prompt_tokens(target, parts)
    if wanted != got:
        raise Mismatch(f"prompt_tokens {wanted}, as for the same text as a string", f"prompt_tokens {got}")
    return f"prompt_tokens {got}, as for a string"


async def max_completion_tokens(target: Target) -> str:
    exchange = await ask_chat(target, max_tokens=None, max_completion_tokens=FEW)
    exchange.expect_status(200)
    if (said := exchange.read(Counted).usage.completion_tokens) > FEW:
        raise Mismatch(f"completion_tokens ≤ max_completion_tokens = {FEW}", f"completion_tokens {said}")
    return f"{said} tokens"


async def token_ids(target: Target) -> str:
    exchange = await ask_completion(target, prompt=TOKEN_IDS)
    exchange.expect_status(200)
    read = exchange.read(Completion).usage.prompt_tokens
    # Some engines begin every prompt with a token of their own.
    if read not in {len(TOKEN_IDS), len(TOKEN_IDS) + 1}:
        raise Mismatch(f"prompt_tokens {len(TOKEN_IDS)} for so many token ids", f"prompt_tokens {read}")
    return f"prompt_tokens {read} for {len(TOKEN_IDS)} token ids"


async def several_prompts(target: Target) -> str:
    prompts = [PROMPT, f"Once more: {PROMPT}"]
    alone = [await say(target, prompt=prompt) for prompt in prompts]
    exchange = await ask_completion(target, prompt=prompts)
    exchange.expect_status(200)
    together = [choice.text for choice in sorted(exchange.read(Completion).choices, key=lambda choice: choice.index)]
    # In a batch the same sums are added in another order, so that a model may come to say something new.
    strange = [said for own, said in zip(alone, together, strict=False) if said != own and said in alone]
    if len(together) != len(prompts) or strange:
        raise Mismatch(f"a choice for each prompt, as alone: {clip(repr(alone))}", clip(repr(together)))
    return f"{len(prompts)} prompts, {len(together)} choices"


async def idle_members(target: Target) -> str:
    for ask in (ask_completion, ask_chat):
        exchange = await ask(target, **IDLE)
        exchange.expect_status(200)
    return ", ".join(IDLE)


async def request_id(target: Target) -> str:
    exchange = await target.post(target.profile.api.completions, completion_body(target), {"X-Request-Id": REQUEST_ID})
    exchange.expect_status(200)
    if REQUEST_ID in exchange.headers.get("x-request-id", ""):
        return "in the header X-Request-Id"
    if REQUEST_ID in (named := exchange.read(Identified).id):
        return f"in the id, {named}"
    raise Mismatch(f"{REQUEST_ID} in the header X-Request-Id or in the id", f"id {named}, and no such header")


async def kept_connection(target: Target) -> str:
    body = completion_body(target, max_tokens=1)
    async with target.line() as line:
        for _ in range(ON_ONE_CONNECTION):
            exchange = await line.post(target.profile.api.completions, body)
            exchange.expect_status(200)
            exchange.read(Completion)
        if line.connections > 1:
            raise Mismatch(f"1 connection for {ON_ONE_CONNECTION} requests", f"{line.connections} connections")
    return f"{ON_ONE_CONNECTION} requests on 1 connection"


CHAT_ROLES = Case(
    id="ms.requests.chat-roles",
    level=Level.SHOULD,
    requirement="A chat SHOULD be understood with a system message and with earlier turns.",
    why="Conversations are sent whole each time; a server that drops what came before forgets, and hits no prefix cache.",
    source="OpenAI API reference, Create chat completion: messages",
    needs=(CHAT_FIELDS.id, USAGE_SUM.id),
    run=chat_roles,
)

CHAT_PARTS = Case(
    id="ms.requests.chat-parts",
    level=Level.SHOULD,
    requirement="Content as a list of text parts SHOULD mean the same as the text.",
    why="Client libraries send parts for everything once a conversation may have images.",
    source="OpenAI API reference, Create chat completion: messages, text content part",
    needs=(CHAT_FIELDS.id, USAGE_SUM.id),
    run=chat_parts,
)

MAX_COMPLETION_TOKENS = Case(
    id="ms.requests.max-completion-tokens",
    level=Level.SHOULD,
    requirement="A chat SHOULD be no longer than max_completion_tokens.",
    why="It has taken the place of max_tokens; a server that does not know it generates until the context is full.",
    source="OpenAI API reference, Create chat completion: max_completion_tokens",
    needs=(CHAT_FIELDS.id, USAGE_SUM.id),
    run=max_completion_tokens,
)

TOKEN_ID_PROMPT = Case(
    id="ms.requests.token-ids",
    level=Level.SHOULD,
    requirement="A prompt SHOULD be accepted as a list of token ids.",
    why="Whoever tokenises at the gateway, to route by prefix or to compute prompts elsewhere, sends ids and not text.",
    source="OpenAI API reference, Create completion: prompt",
    needs=(COMPLETION_FIELDS.id, USAGE_SUM.id),
    run=token_ids,
)

SEVERAL_PROMPTS = Case(
    id="ms.requests.several-prompts",
    level=Level.SHOULD,
    requirement="A list of prompts SHOULD be answered with a choice for each, in their order.",
    why="Evaluations send their questions in lists.",
    source="OpenAI API reference, Create completion: prompt",
    needs=(GREEDY.id,),
    run=several_prompts,
)

IDLE_MEMBERS = Case(
    id="ms.requests.idle-members",
    level=Level.SHOULD,
    requirement="Members of the API at values that change nothing SHOULD be accepted: user, top_p, penalties, logit_bias.",
    why="Client libraries send them unasked; what is refused for them is refused for no reason.",
    source="OpenAI API reference, Create completion and Create chat completion",
    needs=(COMPLETION_FIELDS.id, CHAT_FIELDS.id),
    run=idle_members,
)

REQUEST_ID_KEPT = Case(
    id="ms.requests.request-id",
    level=Level.SHOULD,
    requirement="The X-Request-Id of a request SHOULD come back, as a header or in the id of the answer.",
    why="It is what ties the lines of a gateway's log, a picker's and an engine's together.",
    source="Envoy, HTTP header manipulation: x-request-id; vLLM takes it into the id",
    needs=(COMPLETION_FIELDS.id,),
    run=request_id,
)

KEPT_CONNECTION = Case(
    id="ms.requests.kept-connection",
    level=Level.SHOULD,
    requirement=f"{ON_ONE_CONNECTION} requests, one after the other, SHOULD be answered over one connection.",
    why="Gateways keep pools of connections; a server that closes one just when the next request is sent loses that request.",
    source="RFC 9112 §9.3 (persistence)",
    needs=(COMPLETION_FIELDS.id,),
    run=kept_connection,
)

CASES = (
    CHAT_ROLES,
    CHAT_PARTS,
    MAX_COMPLETION_TOKENS,
    TOKEN_ID_PROMPT,
    SEVERAL_PROMPTS,
    IDLE_MEMBERS,
    REQUEST_ID_KEPT,
    KEPT_CONNECTION,
)
