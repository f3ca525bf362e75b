"""Disaggregation: prompts that one engine computes and another one does not get."""

import re

from shunter.lab.faults.seams import COMPLETED, Fault, Json, Reply, answer, page, put

__all__ = ["FAULTS"]

# At which nobody listens any more.
DISCARD_PORT = 9


def _forget_host(body: Json) -> None:
    if params := body.get("kv_transfer_params"):
        params["remote_host"] = None


def _taken(ask: Json) -> Json:
    """Where a request says that its prompt was computed; nothing if it was not."""
    params: Json = ask.get("kv_transfer_params") or {}
    return params if params.get("do_remote_prefill") else {}


def _go_on_from_another(ask: Json) -> Json:
    return {**ask, "prompt": f"{ask['prompt']}."} if _taken(ask) else ask


def _fetch_nothing(page: str, _: Reply) -> str:
    fetched = r'^(vllm:prompt_tokens_by_source_total\{.*source="external_kv_transfer".*\}) .*$'
    return re.sub(fetched, r"\1 0.0", page, flags=re.MULTILINE)


FAULTS = (
    Fault(
        name="transfer-unsaid",
        case="ms.pd.handed-over",
        breaks="a prefiller does not say where to fetch what it has computed",
        reply=answer(put("kv_transfer_params", None), COMPLETED),
    ),
    Fault(
        name="transfer-without-host",
        case="ms.pd.handed-over",
        breaks="a prefiller does not say at which host to fetch what it has computed",
        reply=answer(_forget_host, COMPLETED),
    ),
    Fault(
        name="transfer-of-another",
        case="ms.pd.same-text",
        breaks="a decoder goes on from what was computed of another prompt",
        ask=_go_on_from_another,
    ),
    Fault(
        name="transfer-in-vain",
        case="ms.pd.fetched",
        breaks="a decoder fetches nothing, and computes the prompt itself",
        reply=page(_fetch_nothing),
    ),
    Fault(
        name="transfer-waits",
        case="ms.pd.lost",
        breaks="a decoder waits for ever for a prefiller that is not there",
        hang=lambda ask: _taken(ask).get("remote_port") == DISCARD_PORT,
    ),
)
