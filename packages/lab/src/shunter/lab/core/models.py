"""What a server serves: names of the base model, and LoRA adapters that come and go."""

import difflib
from collections.abc import Collection, Iterable
from typing import Any

from shunter.lab.errors import ApiError, ParamsError

__all__ = ["Models"]


class Models:
    """The base model's names, the first of which labels every metric, and the adapters loaded on it.

    `selector` is what a request calls an adapter. A `lenient` server answers what it does not know by its base model.
    """

    def __init__(
        self,
        names: Iterable[str],
        adapters: Iterable[str] = (),
        *,
        lora: bool | None = None,
        selector: str = "{adapter}",
        lenient: bool = False,
    ) -> None:
        self.names = tuple(names)
        if not self.names or not all(self.names):
            raise ParamsError("a server needs at least one model name, and no name may be empty")
        if len({*self.names}) < len(self.names):
            raise ParamsError(f"models {', '.join(self.names)}: a name stands twice; give each once")
        self._adapters: dict[str, str] = {}
        for adapter in adapters:
            if not adapter or "," in adapter or adapter in self._adapters or adapter in self.names:
                raise ParamsError(
                    f"LoRA adapter {adapter!r}: a name must be new, not empty, and without commas "
                    "(the metrics list adapters separated by commas)"
                )
            self._adapters[adapter] = adapter
        self.lora = bool(self._adapters) if lora is None else lora
        self._selector = selector
        self._lenient = lenient

    @property
    def adapters(self) -> Collection[str]:
        """Those that are loaded."""
        return self._adapters.keys()

    def resolve(self, model: str | None) -> str | None:
        """The adapter that a model name asks for; None for the base model. No name at all means the base model too."""
        if not model or model in self.names:
            return None
        for adapter in self._adapters:
            if model == self._selector.format(base=self.names[0], adapter=adapter):
                return adapter
        if self._lenient:
            return None
        raise ApiError(
            404,
            f"The model `{model}` does not exist. Valid aliases: {', '.join(self.names)}.",
            kind="NotFoundError",
            param="model",
        )

    def load(self, name: str, path: str) -> None:
        """Add an adapter at run time. Nothing is read from the path: an adapter here is its name."""
        if name in self._adapters or name in self.names:
            raise ApiError(400, f"The lora adapter '{name}' has already been loaded.", kind="InvalidUserInput")
        if not name or "," in name:
            raise ApiError(400, "An adapter's name must not be empty or contain commas.", kind="InvalidUserInput")
        self._adapters[name] = path

    def unload(self, name: str) -> None:
        if self._adapters.pop(name, None) is None:
            near = difflib.get_close_matches(name, self._adapters, n=1)
            hint = f" Did you mean '{near[0]}'?" if near else ""
            raise ApiError(404, f"The lora adapter '{name}' cannot be found.{hint}", kind="NotFoundError")

    def cards(self, created: int, max_model_len: int, owned_by: str = "shunter-lab") -> list[dict[str, Any]]:
        """The list of `/v1/models`: base names first, then each adapter with the base as its parent."""
        base = self.names[0]
        return [
            *(_card(name, created, owned_by, root=base, parent=None, max_model_len=max_model_len) for name in self.names),
            *(
                _card(name, created, owned_by, root=path, parent=base, max_model_len=None)
                for name, path in self._adapters.items()
            ),
        ]


def _card(name: str, created: int, owned_by: str, **fields: Any) -> dict[str, Any]:
    permission = {
        "id": f"modelperm-{name}",
        "object": "model_permission",
        "created": created,
        "allow_create_engine": False,
        "allow_sampling": True,
        "allow_logprobs": False,
        "allow_search_indices": False,
        "allow_view": True,
        "allow_fine_tuning": False,
        "organization": "*",
        "group": None,
        "is_blocking": False,
    }
    return {
        "id": name,
        "object": "model",
        "created": created,
        "owned_by": owned_by,
        **fields,
        "permission": [permission],
    }
