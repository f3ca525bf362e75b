"""Adapters: LoRA adapters."""

import re
from collections.abc import Callable, Collection

import msgspec

from shunter.lab.faults.seams import MODELS, Fault, Json, Reply, answer, page, refuse, value, without_families

__all__ = ["FAULTS"]

INFO = "vllm:lora_requests_info"
LOAD = "/v1/load_lora_adapter"


def _merge_adapter_lists(page: str, _reply: Reply) -> str:
    def merged(match: re.Match[str]) -> str:
        names = ",".join(sorted({*match[1].split(","), *match[2].split(",")} - {""}))
        return f'running_lora_adapters="{names}",waiting_lora_adapters="{names}"'

    lists = re.compile(r'running_lora_adapters="([^"]*)",waiting_lora_adapters="([^"]*)"')
    newest: dict[str, float] = {}
    for line in page.splitlines():
        if line.startswith("vllm:lora_requests_info{"):
            series, _, value = lists.sub(merged, line).rpartition(" ")
            newest[series] = max(float(value), newest.get(series, 0.0))
    kept = re.sub(r"^vllm:lora_requests_info\{.*\n", "", page, flags=re.MULTILINE)
    lines = "".join(f"{series} {value}\n" for series, value in newest.items())
    return re.sub(r"^(# TYPE vllm:lora_requests_info gauge\n)", lambda m: m[1] + lines, kept, flags=re.MULTILINE)


def _unlist(body: Json) -> None:
    body["data"] = [card for card in body["data"] if card["parent"] is None]


def _orphan(body: Json) -> None:
    for card in body["data"]:
        card["parent"] = None


def _answer_by_base(asked: str, loaded: Collection[str], _: Collection[str]) -> str:
    return "" if asked in loaded else asked


def _answer_by_neighbour(asked: str, loaded: Collection[str], used: Collection[str]) -> str:
    return min(used, default=asked) if asked in loaded else asked


def _take_for_base(asked: str, loaded: Collection[str], _: Collection[str]) -> str:
    """Names of models have an owner before a slash, those of adapters have none."""
    return asked if asked in loaded or "/" in asked else ""


def _confuse_loads(reply: Reply) -> Reply:
    return msgspec.structs.replace(reply, status=500) if reply.path == LOAD and reply.status == 400 else reply


def _relabel(label: str, value: str) -> Callable[[Reply], Reply]:
    """Give a label of each series the same value; of series that are then the same the last one stays."""

    def change(page: str, _: Reply) -> str:
        lines: dict[str, str] = {}
        for line in page.splitlines():
            ours = line.startswith(f"{INFO}{{")
            changed = re.sub(rf'{label}="[^"]*"', f'{label}="{value}"', line) if ours else line
            lines[changed.rpartition(" ")[0] if ours else str(len(lines))] = changed
        return "".join(f"{line}\n" for line in lines.values())

    return page(change)


FAULTS = (
    Fault(
        name="lora-unlisted",
        case="ms.lora.listed",
        breaks="adapters that are loaded are not in the model list",
        reply=answer(_unlist, {MODELS}),
    ),
    Fault(
        name="lora-orphaned",
        case="ms.lora.listed",
        breaks="adapters in the model list have no parent",
        reply=answer(_orphan, {MODELS}),
    ),
    Fault(
        name="lora-answered-by-base",
        case="ms.lora.selected",
        breaks="requests for an adapter are answered by the base model",
        model=_answer_by_base,
    ),
    Fault(
        name="lora-mixed-up",
        case="ms.lora.batched",
        breaks="while an adapter is in use, it answers for all others",
        model=_answer_by_neighbour,
    ),
    Fault(
        name="lora-unknown-200",
        case="ms.lora.unknown",
        breaks="an adapter that is not loaded is answered by the base model",
        model=_take_for_base,
    ),
    Fault(
        name="lora-stays",
        case="ms.lora.unloaded",
        breaks="an unload answers 200 and does nothing",
        refuse=refuse("/v1/unload_lora_adapter", 200),
    ),
    Fault(
        name="lora-load-500",
        case="ms.lora.refused",
        breaks="a wrong load of an adapter gets 500",
        reply=_confuse_loads,
    ),
    Fault(
        name="lora-info-missing",
        case="ms.lora.info",
        breaks="there is no family of adapters",
        reply=page(lambda page, _: without_families(page, (INFO,))),
    ),
    Fault(
        name="lora-slots-missing",
        case="ms.lora.info",
        breaks="max_lora is None",
        reply=_relabel("max_lora", "None"),
    ),
    Fault(
        name="lora-running-hidden",
        case="ms.lora.running",
        breaks="no adapter ever runs, says the gauge",
        reply=_relabel("running_lora_adapters", ""),
    ),
    Fault(
        name="lora-time-stands-still",
        case="ms.lora.fresh",
        breaks="every combination of adapters has the same time",
        reply=value(INFO, lambda _was, _: 1.7e9),
    ),
    Fault(
        name="lora-slots-wrong",
        case="ms.lora.slots",
        breaks="max_lora is 16, whatever it is",
        reply=_relabel("max_lora", "16"),
    ),
    Fault(
        name="lora-lists-equal",
        case="ms.lora.waiting",
        breaks="running and waiting adapters are one list, as in vLLM 0.12 to 0.32",
        reply=page(_merge_adapter_lists),
    ),
)
