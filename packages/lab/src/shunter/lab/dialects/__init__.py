"""The kinds of model servers that a lab server can be, one module for each."""

import difflib
from collections.abc import Mapping

from shunter.lab.dialects import jetstream, llamacpp, sglang, tgi, triton, trtllm, vllm
from shunter.lab.dialects.dialect import Dialect, View, render
from shunter.lab.errors import ParamsError

__all__ = ["DIALECTS", "Dialect", "View", "dialect_named", "render", "vllm_paths"]

DIALECTS: Mapping[str, Dialect] = {
    dialect.name: dialect
    for dialect in (
        vllm.LAB,
        vllm.DIALECT,
        sglang.DIALECT,
        triton.DIALECT,
        trtllm.DIALECT,
        tgi.DIALECT,
        jetstream.DIALECT,
        llamacpp.DIALECT,
    )
}


def dialect_named(name: str) -> Dialect:
    """The dialect of that name; an unknown one is answered with near matches."""
    if name not in DIALECTS:
        near = difflib.get_close_matches(name, DIALECTS, n=3)
        raise ParamsError(f"dialect {name!r} does not exist; " + (f"near: {', '.join(near)}" if near else ", ".join(DIALECTS)))
    return DIALECTS[name]


def vllm_paths(dialect: Dialect) -> dict[str, str]:
    """What vLLM calls the paths of a dialect, which is what faults call them; a path that vLLM has stands for itself.

    One that has only its name of vLLM, and says something else, has none.
    """
    deeds = {deed: path.partition(" ")[2] for path, deed in reversed([*vllm.LAB.paths.items()])}
    paths = {path.partition(" ")[2]: deed for path, deed in dialect.paths.items()}
    others = dict.fromkeys(dialect.facts.keys() & deeds.values(), "")
    return others | {path: deeds[deed] for path, deed in paths.items() if deed in deeds and deeds[deed] not in paths}
