"""OpenAI API: answers that no client of the OpenAI API understands."""

import msgspec

from shunter.lab.faults.seams import CHAT, COMPLETED, COMPLETIONS, DONE, MODELS, Fault, Json, Reply, answer, chunk, put

__all__ = ["FAULTS"]


def _drop_choices(body: Json) -> None:
    del body["choices"]


def _unfinished(_: int, body: Json) -> None:
    for choice in body["choices"]:
        choice["finish_reason"] = None


def _wrong_role(body: Json) -> None:
    for choice in body["choices"]:
        choice["message"]["role"] = "user"


def _miscount(body: Json) -> None:
    body["usage"]["total_tokens"] += 1


def _say_too_little(body: Json) -> None:
    usage = body["usage"]
    usage["completion_tokens"] -= 1
    usage["total_tokens"] -= 1


def _cards_without_date(body: Json) -> None:
    for card in body["data"]:
        del card["created"]


def _as_text(reply: Reply) -> Reply:
    plain = reply.path in COMPLETED and reply.status == 200
    return msgspec.structs.replace(reply, headers={"Content-Type": "text/plain"}) if plain else reply


def _usage_everywhere(_: int, body: Json) -> None:
    body.setdefault("usage", {"prompt_tokens": 1, "total_tokens": 2, "completion_tokens": 1})


FAULTS = (
    Fault(
        name="completion-missing-choices",
        case="ms.openai.completion-fields",
        breaks="a completion has no choices",
        reply=answer(_drop_choices, {COMPLETIONS}),
    ),
    Fault(
        name="completion-wrong-object",
        case="ms.openai.completion-fields",
        breaks="a completion calls itself a list",
        reply=answer(put("object", "list"), {COMPLETIONS}),
    ),
    Fault(
        name="chat-wrong-object",
        case="ms.openai.chat-fields",
        breaks="a chat answer calls itself text_completion",
        reply=answer(put("object", "text_completion"), {CHAT}),
    ),
    Fault(
        name="chat-wrong-role",
        case="ms.openai.chat-fields",
        breaks="a chat answer has the role user",
        reply=answer(_wrong_role, {CHAT}),
    ),
    Fault(
        name="sse-no-done",
        case="ms.openai.stream-framing",
        breaks="a stream ends without data: [DONE]",
        event=lambda _, event: b"" if event.startswith(DONE) else event,
    ),
    Fault(
        name="sse-bare-json",
        case="ms.openai.stream-framing",
        breaks="the events of a stream have no data: field",
        event=lambda _, event: event.removeprefix(b"data: "),
    ),
    Fault(
        name="sse-id-changes",
        case="ms.openai.stream-framing",
        breaks="the events of one stream have different ids",
        event=chunk(lambda nth, body: body.__setitem__("id", f"{body['id']}-{nth}")),
    ),
    Fault(
        name="finish-reason-missing",
        case="ms.openai.stream-finish-reason",
        breaks="no event of a stream has a finish_reason",
        event=chunk(_unfinished),
    ),
    Fault(
        name="usage-does-not-add-up",
        case="ms.openai.usage-sum",
        breaks="total_tokens is not prompt_tokens + completion_tokens",
        reply=answer(_miscount, COMPLETED),
    ),
    Fault(
        name="usage-short",
        case="ms.openai.usage-exact",
        breaks="completion_tokens is one less than were asked for with ignore_eos",
        reply=answer(_say_too_little, COMPLETED),
    ),
    Fault(
        name="usage-in-every-event",
        case="ms.openai.stream-usage",
        breaks="every event of a stream has usage although nobody asked",
        event=chunk(_usage_everywhere),
    ),
    Fault(
        name="model-cards-undated",
        case="ms.openai.model-cards",
        breaks="the models of the list have no created",
        reply=answer(_cards_without_date, {MODELS}),
    ),
    Fault(
        name="model-misnamed",
        case="ms.openai.model-named",
        breaks="every answer is of a model called gpt",
        reply=answer(put("model", "gpt"), COMPLETED),
    ),
    Fault(
        name="json-as-text",
        case="ms.openai.content-types",
        breaks="answers are text/plain, although they are JSON",
        reply=_as_text,
    ),
)
