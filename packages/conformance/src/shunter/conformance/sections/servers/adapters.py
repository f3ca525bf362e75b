"""Section G, LoRA adapters: they come and go while the server runs, answer to their names, and pickers see where they are."""

import asyncio
import re
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager, suppress

import msgspec

from shunter.conformance.core.case import Case, Level
from shunter.conformance.core.exchange import Exchange
from shunter.conformance.core.profile import GIE_LORA
from shunter.conformance.core.signals import Role
from shunter.conformance.errors import Mismatch, Skip, Unanswered
from shunter.conformance.exposition import Page
from shunter.conformance.sections.servers.answers import Completion
from shunter.conformance.sections.servers.asking import PROMPT, ask_completion
from shunter.conformance.sections.servers.errors import NO_SUCH_MODEL, UNKNOWN_MODEL
from shunter.conformance.sections.servers.holding import GAUGE_FOLLOWS, SETTLES, hold_tokens, settle
from shunter.conformance.sections.servers.load import ALL_SHOWN, QUEUE_FALLS
from shunter.conformance.sections.servers.metrics import EXPOSITION, SAMPLE_PERIOD_S, SHED, find, scrape
from shunter.conformance.sections.servers.openai import COMPLETION_FIELDS
from shunter.conformance.sections.servers.profile import ADAPTER_INFO, ADAPTERS, IGNORE_EOS, AdapterCalls
from shunter.conformance.sections.servers.reachability import MODELS
from shunter.conformance.sections.servers.target import Adapter, Target

__all__ = ["CASES", "LISTED", "loaded", "named", "wanted"]

# Two models may agree in a few words; hardly in as many as these, after each of several prompts.
WORDS = 32
PROMPTS = (PROMPT, "Steam, diesel and electricity are", "1 2 3 4 5 6 7 8")

FEATURES = (ADAPTERS,)
INFO_FEATURES = (ADAPTERS, ADAPTER_INFO, Role.QUEUE.feature, Role.RUNNING.feature, IGNORE_EOS)


class Info(msgspec.Struct, frozen=True):
    """One series of the adapters' gauge: its value is the time at which its labels were last true."""

    slots: str
    running: frozenset[str]
    waiting: frozenset[str]
    at: float

    def __str__(self) -> str:
        running, waiting = (", ".join(sorted(names)) or "none" for names in (self.running, self.waiting))
        return f"max_lora {self.slots}, running {running}, waiting {waiting}, at {self.at:.3f}"


def wanted(target: Target, count: int = 1) -> Sequence[Adapter]:
    """So many adapters that can be loaded; raises Skip where the examiner has fewer."""
    adapters = target.means.adapters
    if len(adapters) < count:
        raise Skip(f"needs {count} LoRA adapter{'s' * (count > 1)} to load; name them with --lora NAME=PATH")
    return adapters


def named(target: Target, adapter: str) -> str:
    """What `model` says to ask for an adapter."""
    return _calls(target).selector.format(base=target.model, adapter=adapter)


@asynccontextmanager
async def loaded(target: Target, *adapters: Adapter) -> AsyncGenerator[None]:
    """Have adapters loaded while the block runs."""
    try:
        for adapter in adapters:
            if adapter.name not in await _listed(target):
                (await _load(target, adapter)).expect_status(200)
        yield
    finally:
        for adapter in adapters:
            with suppress(Unanswered):
                await _unload(target, adapter)


async def listed(target: Target) -> str:
    adapter = wanted(target)[0]
    async with loaded(target, adapter):
        cards = await _listed(target)
    if adapter.name not in cards:
        raise Mismatch(f"{adapter.name} in the model list once it is loaded", ", ".join(cards))
    if (parent := cards[adapter.name]) not in target.served:
        raise Mismatch(f"the base model as the parent of {adapter.name}", f"parent {parent}")
    return f"{adapter.name} with parent {parent}"


async def selected(target: Target) -> str:
    adapter = wanted(target)[0]
    said = ""
    async with loaded(target, adapter):
        for prompt in PROMPTS:
            base = await _say(target, target.model, prompt)
            if await _say(target, named(target, adapter.name), prompt) != base:
                return f"{named(target, adapter.name)} speaks otherwise than {target.model}"
            said += base
    if not said:
        raise Skip(f"{target.model} and {adapter.name} both say nothing to {len(PROMPTS)} prompts: they cannot be told apart")
    raise Mismatch(
        f"other answers from {adapter.name} than from its base", f"the same {len(PROMPTS)} answers as from {target.model}"
    )


async def batched(target: Target) -> str:
    adapters = wanted(target)
    async with loaded(target, *adapters):
        names = [target.model, *(named(target, adapter.name) for adapter in adapters)]
        alone = [await _say(target, name) for name in names]
        answers = await asyncio.gather(*(ask_completion(target, model=name, max_tokens=WORDS) for name in names))
    for name, own, answer in zip(names, alone, answers, strict=True):
        _served(answer)
        said = _text(answer)
        # In a batch the same sums are added in another order, so that a model may come to say something new.
        if said != own and said in alone:
            raise Mismatch(f"from {name} in one batch with others what it says alone", f"what {names[alone.index(said)]} says")
    return f"{len(names)} models in one batch, and none answered for another"


async def unknown(target: Target) -> str:
    adapter = wanted(target)[0]
    asked = [named(target, f"{adapter.name}-that-nobody-loaded")]
    async with loaded(target, adapter):
        if named(target, adapter.name) != adapter.name:
            asked.append(adapter.name)
        for name in asked:
            answer = await ask_completion(target, model=name)
            if answer.status == 200 and _text(answer) == await _say(target, target.model):
                raise Mismatch(
                    f"an error for model {name!r}, which is no name of an adapter", "HTTP 200 with the answer of the base model"
                )
            if name != adapter.name:
                answer.expect_status(400, 404)
    return f"refused: {', '.join(asked)}"


async def unloaded(target: Target) -> str:
    adapter = wanted(target)[0]
    async with loaded(target, adapter):
        (await _unload(target, adapter)).expect_status(200)
        if adapter.name in await _listed(target):
            raise Mismatch(f"{adapter.name} in the model list no longer when it is unloaded", "it is still there")
        (await ask_completion(target, model=named(target, adapter.name))).expect_status(400, 404)
    return f"{adapter.name} is neither listed nor answered"


async def refused(target: Target) -> str:
    adapter = wanted(target)[0]
    calls = _calls(target)
    async with loaded(target, adapter):
        for exchange in (
            await _load(target, adapter),
            await target.post(calls.load, {"lora_name": NO_SUCH_MODEL}),
            await target.post(calls.unload, {"lora_name": NO_SUCH_MODEL}),
        ):
            exchange.expect_status(400, 404, 409, 422)
    return "a second load, a load from nowhere, an unload of what is not there"


async def info(target: Target) -> str:
    wanted(target)
    latest = _infos(target, await scrape(target))[0]
    _slots(latest)
    return str(latest)


async def running(target: Target) -> str:
    adapter = wanted(target)[0]
    async with loaded(target, adapter), _holding(target, [adapter]):
        seen = await _watch(
            target, lambda page: any(adapter.name in each.running for each in _infos(target, page)), f"{adapter.name} running"
        )
    return str(_infos(target, seen)[0])


async def fresh(target: Target) -> str:
    adapter = wanted(target)[0]
    stamps: list[float] = []
    async with loaded(target, adapter):
        for _ in range(2):
            async with _holding(target, [adapter]):
                later = stamps[-1] if stamps else 0.0
                page = await _watch(
                    target,
                    lambda page, later=later: any(
                        adapter.name in each.running and each.at > later for each in _infos(target, page)
                    ),
                    f"{adapter.name} running, at a time after {later:.3f}",
                )
                stamps.append(_infos(target, page)[0].at)
    return f"at {stamps[0]:.3f}, and a request later at {stamps[1]:.3f}"


async def waiting(target: Target) -> str:
    adapters = wanted(target, 2)
    names = {adapter.name for adapter in adapters}

    def true(page: Page) -> bool:
        """Whether one of the latest series agrees with the gauges of requests, of which each has an adapter of its own here."""
        run, queue = _gauges(target, page)
        return run + queue == len(names) and any(
            (len(each.running), len(each.waiting)) == (run, queue) and names == {*each.running, *each.waiting}
            for each in _infos(target, page)
        )

    await settle(target)
    async with loaded(target, *adapters), _holding(target, adapters):
        await _all_here(target, adapters)
        page = await _watch(target, true, "as many adapters running and as many others waiting as requests with one each")
    return str(_infos(target, page)[0])


async def slots(target: Target) -> str:
    adapters = wanted(target, 2)
    async with loaded(target, *adapters), _holding(target, adapters):
        await _all_here(target, adapters)
        page = await scrape(target)
        run, queue = _gauges(target, page)
        seen = _infos(target, page)[0]
    most = _slots(seen)
    if run > most or (queue and run != most and run < (target.capacity or 0)):
        raise Mismatch(f"{run:g} as max_lora, for of {len(adapters)} requests with an adapter each so many run", str(seen))
    return f"max_lora {most}, and {run:g} of {len(adapters)} adapters run"


def _calls(target: Target) -> AdapterCalls:
    return target.profile.adapters or AdapterCalls()


async def _load(target: Target, adapter: Adapter) -> Exchange:
    return await target.post(_calls(target).load, {"lora_name": adapter.name, "lora_path": adapter.path})


async def _unload(target: Target, adapter: Adapter) -> Exchange:
    return await target.post(_calls(target).unload, {"lora_name": adapter.name})


class _Card(msgspec.Struct, frozen=True):
    id: str
    parent: str | None = None


class _Cards(msgspec.Struct, frozen=True):
    data: list[_Card]


async def _listed(target: Target) -> dict[str, str | None]:
    """The parents of all listed models by name."""
    exchange = await target.get(target.profile.api.models)
    exchange.expect_status(200)
    return {card.id: card.parent for card in exchange.read(_Cards).data}


async def _say(target: Target, model: str, prompt: str = PROMPT) -> str:
    answer = await ask_completion(target, model=model, prompt=prompt, max_tokens=WORDS)
    _served(answer)
    return _text(answer)


def _served(answer: Exchange) -> None:
    """Raise Mismatch unless the answer is a good one, and Skip if the server has too much to do for it."""
    if answer.status in SHED:
        raise Skip(f"of several requests at once it refuses some (HTTP {' or '.join(map(str, SHED))}), which is its right")
    answer.expect_status(200)


def _text(answer: Exchange) -> str:
    return answer.read(Completion).choices[0].text


def _infos(target: Target, page: Page) -> list[Info]:
    """The series that were true last: one, unless some have the same time."""
    signal = _calls(target).info
    series = page.find(signal) if signal else []
    if not series:
        raise Mismatch(f"a series {signal}", "the page has none")
    latest = max(each.value for each in series)
    return [
        Info(
            each.labels.get("max_lora", ""),
            _names(each.labels.get("running_lora_adapters", "")),
            _names(each.labels.get("waiting_lora_adapters", "")),
            each.value,
        )
        for each in series
        if each.value == latest
    ]


def _slots(info: Info) -> int:
    """How many adapters run at once, as the gauge says; raises Mismatch."""
    if not re.fullmatch(r"0*[1-9][0-9]{0,8}", info.slots):
        raise Mismatch("a whole number above 0 as max_lora", repr(info.slots))
    return int(info.slots)


def _names(label: str) -> frozenset[str]:
    return frozenset(name.strip() for name in label.split(",")) - {""}


def _gauges(target: Target, page: Page) -> tuple[float, float]:
    """How many requests run, and how many wait."""
    run, queue = (sum(each.value for each in find(target, page, role)) for role in (Role.RUNNING, Role.QUEUE))
    return run, queue


@asynccontextmanager
async def _holding(target: Target, adapters: Sequence[Adapter]) -> AsyncGenerator[None]:
    """Keep a request for each adapter at the server while the block runs; then wait for the answers."""
    asked = [
        asyncio.create_task(
            ask_completion(target, model=named(target, adapter.name), max_tokens=hold_tokens(target), ignore_eos=True)
        )
        for adapter in adapters
    ]
    try:
        yield
        for answer in await asyncio.gather(*asked):
            _served(answer)
    finally:
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)


async def _watch(target: Target, enough: Callable[[Page], bool], expected: str) -> Page:
    """Look at the page until it is as expected; raises Mismatch if it is not in time."""
    clock, limit_s = asyncio.get_running_loop().time, target.seconds(GAUGE_FOLLOWS)
    begin_s = clock()
    while not enough(page := await scrape(target)):
        if clock() - begin_s > limit_s:
            run, queue = _gauges(target, page)
            raise Mismatch(
                f"{expected}, within {limit_s:g} s", f"{_infos(target, page)[0]}; {run:g} requests run, {queue:g} wait"
            )
        await asyncio.sleep(SAMPLE_PERIOD_S)
    return page


async def _all_here(target: Target, adapters: Sequence[Adapter]) -> None:
    """Wait until all of them run or wait; raises Skip where none waits."""
    page = await _watch(target, lambda page: sum(_gauges(target, page)) >= len(adapters), f"{len(adapters)} requests")
    if not _gauges(target, page)[1]:
        raise Skip(f"{len(adapters)} adapters run at once: name more of them (--lora), or let fewer run (vLLM: --max-loras)")


PROTOCOL = "GIE Model Server Protocol (proposal 003), LoRA Adapter Support"
VLLM = "vLLM, the reference server of the GIE Model Server Protocol: dynamic loading of LoRA adapters"

LISTED = Case(
    id="ms.lora.listed",
    level=Level.MUST,
    requirement="An adapter that is loaded while the server runs MUST be in the model list at once, its base as its parent.",
    why="Whoever shifts traffic to a new adapter looks there whether a replica has it, and of which model it is one.",
    source=VLLM,
    features=FEATURES,
    needs=(MODELS.id,),
    run=listed,
)

SELECTED = Case(
    id="ms.lora.selected",
    level=Level.MUST,
    requirement="A request whose model is the name of a loaded adapter MUST be answered by that adapter.",
    why="Users of the adapter get the answers of the base model, and no status and no metric says so.",
    source=PROTOCOL,
    features=FEATURES,
    needs=(LISTED.id, COMPLETION_FIELDS.id),
    suites=(GIE_LORA,),
    run=selected,
)

BATCHED = Case(
    id="ms.lora.batched",
    level=Level.SHOULD,
    requirement="Requests for different adapters that run at once SHOULD each be answered by their own.",
    why="Adapters share one copy of the base model by running in one batch; a mix-up shows under load alone.",
    source=PROTOCOL,
    features=FEATURES,
    needs=(SELECTED.id,),
    suites=(GIE_LORA,),
    run=batched,
)

UNKNOWN = Case(
    id="ms.lora.unknown",
    level=Level.MUST,
    requirement="A name that is no loaded adapter's MUST be refused with 404 or 400, and never be answered by the base model.",
    why="During a rollout some replicas do not have the adapter yet: an error is tried elsewhere, a wrong answer is not.",
    source=PROTOCOL,
    features=FEATURES,
    needs=(UNKNOWN_MODEL.id, SELECTED.id),
    suites=(GIE_LORA,),
    run=unknown,
)

UNLOADED = Case(
    id="ms.lora.unloaded",
    level=Level.MUST,
    requirement="An adapter that has been unloaded MUST leave the model list, and requests for it MUST be refused.",
    why="Who takes an old version away must be sure that nobody is answered by it any more.",
    source=VLLM,
    features=FEATURES,
    needs=(UNKNOWN.id,),
    run=unloaded,
)

REFUSED = Case(
    id="ms.lora.refused",
    level=Level.SHOULD,
    requirement="A second load, a load without a path and an unload of what is not loaded SHOULD be refused with 4xx.",
    why="Controllers repeat their calls; with a 5xx they try again for ever, with a 200 they believe what is not so.",
    source=VLLM,
    features=FEATURES,
    needs=(UNLOADED.id,),
    run=refused,
)

INFO = Case(
    id="ms.lora.info",
    level=Level.MUST,
    requirement="A server of adapters MUST have the gauge of running and waiting ones, with the number of slots as max_lora.",
    why="Without it a picker cannot send a request where its adapter is in memory already.",
    source=PROTOCOL,
    features=(ADAPTERS, ADAPTER_INFO),
    needs=(EXPOSITION.id,),
    suites=(GIE_LORA,),
    run=info,
)

RUNNING = Case(
    id="ms.lora.running",
    level=Level.MUST,
    requirement="While an adapter's request runs, the series with the latest value MUST have its name among the running ones.",
    why="Pickers read this one series; an adapter that is not in it is loaded a second time, on another replica.",
    source=PROTOCOL,
    features=INFO_FEATURES,
    needs=(SELECTED.id, INFO.id),
    bounds=(GAUGE_FOLLOWS,),
    suites=(GIE_LORA,),
    run=running,
)

FRESH = Case(
    id="ms.lora.fresh",
    level=Level.MUST,
    requirement="The value of the adapters' gauge MUST be the time at which its labels were true, and rise with each change.",
    why="There is a series for each combination that ever was: a value that stands still leaves pickers with any of them.",
    source=PROTOCOL,
    features=INFO_FEATURES,
    needs=(RUNNING.id,),
    bounds=(GAUGE_FOLLOWS,),
    suites=(GIE_LORA,),
    run=fresh,
)

WAITING = Case(
    id="ms.lora.waiting",
    level=Level.MUST,
    requirement="With more adapters asked for than run at once, the gauge MUST name those that run, and apart those that wait.",
    why="A picker counts both against max_lora: lists that are wrong make full replicas attractive, or free ones look full.",
    source=PROTOCOL,
    features=INFO_FEATURES,
    needs=(ALL_SHOWN.id, BATCHED.id, RUNNING.id),
    bounds=(GAUGE_FOLLOWS, SETTLES),
    suites=(GIE_LORA,),
    run=waiting,
)

SLOTS = Case(
    id="ms.lora.slots",
    level=Level.MUST,
    requirement="max_lora MUST be the number of adapters that run at once at most.",
    why="A picker takes a replica with fewer adapters for one that has room for another.",
    source=PROTOCOL,
    features=INFO_FEATURES,
    needs=(WAITING.id, QUEUE_FALLS.id),
    bounds=(GAUGE_FOLLOWS,),
    suites=(GIE_LORA,),
    run=slots,
)

CASES = (LISTED, SELECTED, BATCHED, UNKNOWN, UNLOADED, REFUSED, INFO, RUNNING, FRESH, WAITING, SLOTS)
