"""How far the answer to one HTTP request has come: tokens in, pieces of text, choices and usage out."""

from collections.abc import Hashable, Sequence

from shunter.lab.core.answers import Choice, Usage
from shunter.lab.core.asks import Ask
from shunter.lab.core.sequence import Token
from shunter.lab.core.tokens import Script

__all__ = ["Progress"]


class Progress:
    """One answer in the making. `names`: the engine's name of the request behind each choice."""

    def __init__(self, ask: Ask, names: Sequence[str], scripts: Sequence[Script], *, tell_cached: bool) -> None:
        self._ask = ask
        self._scripts = scripts
        self._index: dict[Hashable, int] = {name: index for index, name in enumerate(names)}
        self._generated = [0] * len(scripts)
        self._told_chars = [0] * len(scripts)
        self._cached = [0] * len(scripts)
        self._finish: list[str | None] = [None] * len(scripts)
        self._tell_cached = tell_cached

    @property
    def done(self) -> bool:
        return None not in self._finish

    def take(self, token: Token | None) -> list[Choice]:
        """The pieces that a token adds. None: the server ends now, and every unfinished choice with it."""
        if token is None:
            cut = [index for index, finish in enumerate(self._finish) if finish is None]
            for index in cut:
                self._finish[index] = "abort"
            return [Choice(index, (), "abort") for index in cut]
        index = self._index[token.id]
        script = self._scripts[index]
        self._generated[index] = token.index + 1
        self._cached[index] = token.cached_tokens
        self._finish[index] = token.finish
        stop_reason = script.stop_reason if token.finish else None
        piece, offset = script.pieces[token.index], self._told_chars[index]
        self._told_chars[index] += len(piece)
        return [Choice(index, (piece,), token.finish, stop_reason, offset)]

    def whole(self) -> list[Choice]:
        """Every choice with all of its text so far."""
        return [
            Choice(
                index,
                script.pieces[: self._generated[index]],
                self._finish[index],
                script.stop_reason if self._finish[index] == "stop" else None,
            )
            for index, script in enumerate(self._scripts)
        ]

    def usage(self) -> Usage:
        """The bill of the whole request."""
        prompt = sum(map(len, self._ask.prompts))
        return Usage(prompt, sum(self._generated), sum(self._cached) if self._tell_cached else None)

    def usage_of(self, index: int) -> Usage:
        """The bill of one choice so far, as `continuous_usage_stats` wants it."""
        return Usage(len(self._ask.prompt_of_each[index]), self._generated[index])
