"""Policies by name: ordinary balancers, other routers, configurations of the real picker, and the bound.

A configuration is an EndpointPickerConfig, one of those that come with the picker or the user's own file: it is read by the
picker's own code and judged by its own judge. `shunter` is the picker's default, whatever that is.
"""

import difflib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from random import Random

import msgspec

from shunter.lab.core.fleet import Fleet
from shunter.lab.core.judges import JudgeChooser
from shunter.lab.core.simulation import Chooser
from shunter.lab.errors import TraceError
from shunter.lab.policies.balancers import Balancer, BoundedHash, Chance, LeastRequest, Turns
from shunter.lab.policies.radix import RadixTree
from shunter.picker import config
from shunter.picker.errors import ConfigError

__all__ = ["BOUND", "OURS", "Policy", "find_plan", "find_policy", "policies"]

OURS = "shunter"
BOUND = "clairvoyant"
ENDINGS = (".yaml", ".yml")


class Policy(msgspec.Struct, frozen=True):
    """Who chooses: made anew for each run.

    `build` takes the fleet and a seed. A function of a module (or a partial of one) can be sent to another process; the bound
    has none, since nothing is left to choose.
    """

    name: str
    about: str
    build: Callable[[Fleet, int], Chooser] | None = None


def policies() -> dict[str, Policy]:
    """Return all there are, in the order of reports."""
    found = {policy.name: policy for policy in (*_BALANCERS, *_configurations())}
    found[OURS] = Policy(OURS, "this picker's default configuration", partial(_judge, config.load))
    found[BOUND] = Policy(BOUND, "the bound: all engines as one, always evenly loaded, with a perfect cache")
    return found


def find_policy(name: str) -> Policy:
    """Return the policy of a name, or of a configuration in a .yaml file; raises TraceError."""
    if name.endswith(ENDINGS):
        find_plan(name)  # a mistake is told here, where it can be, and not by the processes that simulate
        path = Path(name)
        if path.stem in policies():
            raise TraceError(f"{path}: {path.stem} is the name of a policy that there is; call the file otherwise")
        return _configuration(path.stem, _read(path))
    known = policies()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(known)}"
        raise TraceError(f"policy {name!r}: no such name, and not a .yaml file; {hint}")
    return known[name]


def find_plan(name: str) -> config.Plan:
    """Return the configuration of a name, or in a .yaml file; raises TraceError, also for policies that have none."""
    known = {OURS: config.DEFAULT} | {each: config.read_builtin(each) for each in config.builtin_names()[1:]}
    text = _read(Path(name)) if name.endswith(ENDINGS) else known.get(name)
    if text is None:
        raise TraceError(f"policy {name!r} has no configuration: give a .yaml file, or one of {', '.join(known)}")
    try:
        return config.load(text)
    except ConfigError as error:
        raise TraceError(f"{name}: {error}") from error


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError as error:
        raise TraceError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise TraceError(f"{path}: {error}") from error


def _configurations() -> Iterator[Policy]:
    for name in config.builtin_names()[1:]:  # the first is ours
        yield _configuration(name, config.read_builtin(name))


def _configuration(name: str, text: str) -> Policy:
    about = text.partition("\n")[0]
    build = partial(_judge, partial(config.load, text))
    return Policy(name, about.removeprefix("# ") if about.startswith("# ") else "", build)


def _judge(load: Callable[[], config.Plan], fleet: Fleet, seed: int) -> Chooser:
    return JudgeChooser(load().policy, fleet, Random(seed))  # noqa: S311  as production's dice


def _balance(kind: type[Balancer], fleet: Fleet, seed: int) -> Chooser:
    return kind(len(fleet.engines), Random(seed))  # noqa: S311  traffic, not secrets


_BALANCERS = (
    Policy("random", "anybody", partial(_balance, Chance)),
    Policy("round-robin", "one after the other: a Kubernetes service", partial(_balance, Turns)),
    Policy(
        "least-request", "the fewest requests in flight: Envoy's least_request, all compared", partial(_balance, LeastRequest)
    ),
    Policy("native", "hash of the session with bounded load and live weights: Envoy alone", partial(_balance, BoundedHash)),
    Policy(
        "sglang",
        "longest prefix in an approximate tree unless loads are unequal: SGLang's router",
        partial(_balance, RadixTree),
    ),
)
