"""Requests: members that the API has and the server does not understand."""

from typing import Any, cast

from shunter.lab.faults.seams import COMPLETED, Fault, Json, answer, put, without

__all__ = ["FAULTS"]


def _no_system(ask: Json) -> Json:
    return {**ask, "messages": [each for each in ask["messages"] if each["role"] != "system"]} if _talks(ask) else ask


def _last_turn(ask: Json) -> Json:
    return {**ask, "messages": ask["messages"][-1:]} if _talks(ask) else ask


def _parts_as_text(ask: Json) -> Json:
    return {**ask, "messages": [{**each, "content": str(each["content"])} for each in ask["messages"]]} if _talks(ask) else ask


def _talks(ask: Json) -> bool:
    return isinstance(ask.get("messages"), list)


def _ids_as_text(ask: Json) -> Json:
    prompt: Any = ask.get("prompt")
    return {**ask, "prompt": "".join(map(str, prompt))} if _is_list(prompt, int) else ask


def _first_prompt(ask: Json) -> Json:
    prompt: Any = ask.get("prompt")
    return {**ask, "prompt": prompt[:1]} if _is_list(prompt, str) else ask


def _backwards(ask: Json) -> Json:
    prompt: Any = ask.get("prompt")
    return {**ask, "prompt": prompt[::-1]} if _is_list(prompt, str) else ask


def _is_list(prompt: Any, kind: type) -> bool:
    return isinstance(prompt, list) and prompt != [] and isinstance(cast("list[Any]", prompt)[0], kind)


def _refuse_user(ask: Json) -> Json:
    return {**ask, "temperature": -1} if "user" in ask else ask


FAULTS = (
    Fault(
        name="system-ignored", case="ms.requests.chat-roles", breaks="a system message is no part of the prompt", ask=_no_system
    ),
    Fault(name="turns-ignored", case="ms.requests.chat-roles", breaks="a chat is its last message", ask=_last_turn),
    Fault(
        name="parts-as-text",
        case="ms.requests.chat-parts",
        breaks="content in parts is read as the text of a list",
        ask=_parts_as_text,
    ),
    Fault(
        name="max-completion-tokens-ignored",
        case="ms.requests.max-completion-tokens",
        breaks="max_completion_tokens limits nothing",
        ask=without("max_completion_tokens"),
    ),
    Fault(
        name="token-ids-as-text",
        case="ms.requests.token-ids",
        breaks="a prompt of token ids is read as their digits",
        ask=_ids_as_text,
    ),
    Fault(
        name="first-prompt-only",
        case="ms.requests.several-prompts",
        breaks="of several prompts the first is answered",
        ask=_first_prompt,
    ),
    Fault(
        name="prompts-backwards",
        case="ms.requests.several-prompts",
        breaks="several prompts are answered in the wrong order",
        ask=_backwards,
    ),
    Fault(name="user-refused", case="ms.requests.idle-members", breaks="a request with user gets 400", ask=_refuse_user),
    Fault(
        name="request-id-ignored",
        case="ms.requests.request-id",
        breaks="X-Request-Id is nowhere in the answer",
        reply=answer(put("id", "cmpl-1"), COMPLETED),
    ),
    Fault(
        name="connection-not-kept",
        case="ms.requests.kept-connection",
        breaks="every connection is closed after its first answer",
        wire="close",
    ),
)
