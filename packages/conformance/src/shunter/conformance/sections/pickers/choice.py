"""The choice: does the picker heed what model servers say of themselves, and what they have computed before?

Chance decides ties, and some pickers draw lots among the good. So each case asks many times, and compares the number of
hits with what a picker that pays no attention would reach by luck once in a million times (`core.chance`).
"""

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable

from shunter.conformance.core.case import Bound, Case, Level
from shunter.conformance.core.chance import beyond_chance
from shunter.conformance.errors import Mismatch, Skip
from shunter.conformance.sections.pickers.asking import ANSWERS, MODEL, chat, pick, spend
from shunter.conformance.sections.pickers.stream import PICKS, PROTOCOL
from shunter.conformance.sections.pickers.target import Server, Target

__all__ = ["CASES"]

MODEL_SERVERS = "GIE proposal 003, Model Server Protocol"

NOTICES = Bound(
    "notices",
    10.0,
    "whoever looks at a model server less often than this decides by what was, and herds of requests follow an old number",
    scales=False,
)

FRESH = Bound("fresh", 2.0, "llm-d's router calls metrics stale after 2 s", scales=False)

# Each of them by itself proves that it was not luck, if most go where they should.
TRIES = 40

# A queue and a cache that leave no doubt, in anybody's weights.
LONG_QUEUE, FULL = 40, 0.95

# More tokens than anybody's block of a prefix, so that it is worth to be sent where they are.
PREFIX_WORDS = 1500

ADAPTER = "exam-adapter"

LOOK_EVERY_S = 0.05

# How often a picker is asked again that has not noticed yet.
LOOKS = 5


def _reset(target: Target) -> None:
    for server in target.servers:
        server.waiting, server.running, server.kv_usage, server.adapters = 0, 0, 0.1, ()


def _several(target: Target) -> int:
    if len(target.servers) < 2:
        raise Skip("needs two servers or more to choose from; --servers names them")
    return len(target.servers)


async def _scraped(target: Target) -> None:
    """Wait until the picker has seen what the servers say now: a second page may have been asked for only after the first."""
    clock = asyncio.get_running_loop().time
    before = [server.scrapes for server in target.servers]
    deadline_s = clock() + target.seconds(NOTICES)
    while any(server.scrapes < seen + 2 for server, seen in zip(target.servers, before, strict=True)):
        if clock() > deadline_s:
            late = [server.address for server, seen in zip(target.servers, before, strict=True) if server.scrapes < seen + 2]
            raise Mismatch(f"two looks at the metrics of each server within {target.seconds(NOTICES):g} s", f"not at {late[0]}")
        await asyncio.sleep(LOOK_EVERY_S)


async def _prefer(
    target: Target, favour: Callable[[Server], None], others: Callable[[Server], None], model: str = MODEL
) -> str:
    """One server is made the better choice, then another one; each has to be picked more often than luck would have it."""
    enough = beyond_chance(TRIES, 1 / _several(target))
    clock = asyncio.get_running_loop().time
    said: list[str] = []
    for favourite in (target.servers[0], target.servers[-1]):
        try:
            for server in target.servers:
                (favour if server is favourite else others)(server)
            deadline_s = clock() + target.seconds(NOTICES)
            await _scraped(target)
            hits = await _hits(target, favourite, model)
            while hits[favourite.address] < enough and clock() < deadline_s:
                await asyncio.sleep(target.seconds(NOTICES) / LOOKS)
                hits = await _hits(target, favourite, model)
        finally:
            _reset(target)
        if hits[favourite.address] < enough:
            raise Mismatch(
                f"{favourite.address} in at least {enough} of {TRIES} picks (less may be luck: 1 in {_several(target)} each)",
                ", ".join(f"{address} {count}" for address, count in hits.most_common()),
            )
        said.append(f"{hits[favourite.address]} of {TRIES}")
    return f"{' and '.join(said)} picks, where {enough} are no luck any more"


async def _hits(target: Target, favourite: Server, model: str) -> Counter[str]:
    """Who got how many of different prompts. Nobody has their beginnings: each begins with the time."""
    now_s = asyncio.get_running_loop().time()
    return Counter([await spend(target, chat(f"{now_s} {favourite.address} {at}", model)) for at in range(TRIES)])


async def queue(target: Target) -> str:
    def busy(server: Server) -> None:
        server.waiting, server.running = LONG_QUEUE, LONG_QUEUE

    return await _prefer(target, lambda _: None, busy)


async def kv_cache(target: Target) -> str:
    def full(server: Server) -> None:
        server.kv_usage = FULL

    return await _prefer(target, lambda _: None, full)


async def adapter(target: Target) -> str:
    def has(server: Server) -> None:
        server.adapters = (ADAPTER,)

    def has_others(server: Server) -> None:
        server.adapters = tuple(f"other-{at}" for at in range(server.max_adapters))

    return await _prefer(target, has, has_others, ADAPTER)


async def spread(target: Target) -> str:
    several = _several(target)
    await _scraped(target)
    tries = TRIES * 2
    hits = Counter([await spend(target, chat(f"spread {at}: {at * at}")) for at in range(tries)])
    most = beyond_chance(tries, 1 / several)
    address, count = hits.most_common(1)[0]
    if count >= most:
        raise Mismatch(
            f"less than {most} of {tries} different prompts for any of {several} equal servers", f"{address} {count}"
        )
    return ", ".join(f"{address} {count}" for address, count in hits.most_common())


async def prefix(target: Target) -> str:
    several = _several(target)
    await _scraped(target)
    groups = 5
    again = TRIES // groups
    homes: dict[int, str] = {}
    hits = 0
    for turn in range(again + 1):
        for group in range(groups):
            words = " ".join(f"{group}-{word}" for word in range(PREFIX_WORDS))
            endpoint = await spend(target, chat(f"{words} and then {turn}"))
            hits += endpoint == homes.setdefault(group, endpoint) and turn > 0
    enough = beyond_chance(again * groups, 1 / several)
    if hits < enough:
        raise Mismatch(f"at least {enough} of {again * groups} prompts where their beginning was computed before", f"{hits}")
    return f"{hits} of {again * groups} prompts where their beginning was computed before; {enough} are no luck any more"


async def fresh(target: Target) -> str:
    """Of the latest picks enough went to whom they should, before all of them were asked later than the bound."""
    enough = beyond_chance(TRIES, 1 / _several(target))
    clock = asyncio.get_running_loop().time
    favourite, other = target.servers[0], target.servers[-1]
    took_s = 0.0
    try:
        for turn, (idle, busy) in enumerate(((favourite, other), (other, favourite))):
            for server in target.servers:
                server.waiting = server.running = 0 if server is idle else LONG_QUEUE
            start_s = clock()
            latest: deque[tuple[float, bool]] = deque(maxlen=TRIES)
            while len(latest) < TRIES or sum(hit for _, hit in latest) < enough:
                if len(latest) == TRIES and latest[0][0] > target.seconds(FRESH):
                    wanted = f"{idle.address} in at least {enough} of {TRIES} picks from {target.seconds(FRESH):g} s on"
                    hits = sum(hit for _, hit in latest)
                    raise Mismatch(
                        f"{wanted}, since it is idle and {busy.address} busy", f"{hits} from {latest[0][0]:.2f} s on"
                    )
                asked_s = clock() - start_s
                hit = await pick(target, chat(f"fresh {turn} {asked_s}")) == idle.address
                latest.append((asked_s, hit))
            took_s = max(took_s, latest[0][0])
    finally:
        _reset(target)
    return f"followed a queue: {enough} or more of {TRIES} picks from {took_s:.2f} s on"


def _case(
    name: str,
    run: Callable[[Target], Awaitable[str]],
    requirement: str,
    why: str,
    bound: Bound = NOTICES,
    source: str = MODEL_SERVERS,
    needs: tuple[str, ...] = PICKS,
) -> Case[Target]:
    return Case(
        id=f"ep.choice.{name}",
        level=Level.SHOULD,
        requirement=requirement,
        why=why,
        source=source,
        run=run,
        features=(f"{name}-choice",),
        needs=needs,
        bounds=(bound, ANSWERS),
    )


CASES: tuple[Case[Target], ...] = (
    _case(
        "spread",
        spread,
        "The picker SHOULD spread different prompts over equal servers.",
        "A herd on one server waits while the others are idle.",
        source=PROTOCOL,
    ),
    _case(
        "queue",
        queue,
        "The picker SHOULD prefer a server without a queue.",
        "A request in a queue waits for whole generations.",
    ),
    _case(
        "kv-cache",
        kv_cache,
        "The picker SHOULD prefer a server with room in its KV cache.",
        "A server without room throws requests out and computes them again.",
    ),
    _case(
        "prefix",
        prefix,
        "The picker SHOULD send prompts that begin alike to the same server.",
        "A prefix in the cache need not be computed again, which is most of the time to the first token.",
        source="GIE proposal 0602, prefix cache",
    ),
    _case(
        "adapter",
        adapter,
        "The picker SHOULD prefer a server that has the adapter loaded.",
        "Others load it first, and may have to unload one for it.",
    ),
    _case(
        "fresh",
        fresh,
        "The picker SHOULD follow what a server says of its queue within 2 s.",
        "Queues come and go within seconds.",
        FRESH,
        needs=(*PICKS, "ep.choice.queue"),
    ),
)
