"""Streaming: streams that say something else than a whole answer, or too late."""

from collections.abc import Callable

from shunter.lab.faults.seams import Fault, Json, chunk

__all__ = ["FAULTS"]

# The event that goes wrong: in the middle of a short answer, of a completion and of a chat.
NTH = 3


def _text(change: Callable[[str], str]) -> Callable[[int, Json], None]:
    """Change the text of one event."""

    def changed(nth: int, body: Json) -> None:
        for choice in body["choices"] if nth == NTH else ():
            said = choice.get("delta", choice)
            for name in {"text", "content"} & said.keys():
                said[name] = change(said[name])

    return changed


def _cut_characters(_: int, body: Json) -> None:
    for choice in body["choices"]:
        said = choice.get("delta", choice)
        for name in {"text", "content"} & said.keys():
            said[name] = "".join(each if each.isascii() else "\ufffd\ufffd" for each in said[name])


def _no_role(_: int, body: Json) -> None:
    for choice in body["choices"]:
        choice.get("delta", {}).pop("role", None)


def _forget_usage(ask: Json) -> Json:
    options: Json = ask.get("stream_options") or {}
    return {**ask, "stream_options": {**options, "continuous_usage_stats": False}} if options else ask


def _count_down(nth: int, body: Json) -> None:
    if body["choices"] and "usage" in body:
        body["usage"]["completion_tokens"] = max(0, 100 - nth)


def _go_on(ask: Json) -> Json:
    return {name: value for name, value in ask.items() if name != "stop"} if ask.get("stream") else ask


FAULTS = (
    Fault(
        name="stream-loses-piece",
        case="ms.streaming.same-text",
        breaks="the fourth event of a stream has no text",
        event=chunk(_text(lambda _: "")),
    ),
    Fault(
        name="stream-repeats-piece",
        case="ms.streaming.same-text",
        breaks="the fourth event of a stream says its text twice",
        event=chunk(_text(lambda text: text * 2)),
    ),
    Fault(
        name="stream-at-once",
        case="ms.streaming.gradual",
        breaks="a stream is sent when it is complete",
        wire="hoard",
    ),
    Fault(
        name="characters-cut",
        case="ms.streaming.characters",
        breaks="a character of several bytes comes as two halves of one",
        event=chunk(_cut_characters),
    ),
    Fault(
        name="streams-mixed",
        case="ms.streaming.unmixed",
        breaks="a stream that is not alone says what another one says",
        mixes=True,
    ),
    Fault(
        name="stream-without-role",
        case="ms.streaming.chat-role",
        breaks="no delta of a chat has a role",
        event=chunk(_no_role),
    ),
    Fault(
        name="usage-not-continuous",
        case="ms.streaming.usage-so-far",
        breaks="continuous_usage_stats changes nothing",
        ask=_forget_usage,
    ),
    Fault(
        name="usage-counts-down",
        case="ms.streaming.usage-so-far",
        breaks="the usage so far falls",
        event=chunk(_count_down),
    ),
    Fault(
        name="stream-does-not-stop",
        case="ms.streaming.stop",
        breaks="no stream stops at a stop string",
        ask=_go_on,
    ),
)
