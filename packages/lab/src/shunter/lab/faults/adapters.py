"""Adapters: LoRA adapters."""

import re

from shunter.lab.faults.seams import Fault, Reply, page

__all__ = ["FAULTS"]


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


FAULTS = (
    Fault(
        name="lora-lists-equal",
        breaks="running and waiting adapters are one list, as in vLLM 0.12 to 0.32",
        reply=page(_merge_adapter_lists),
    ),
)
