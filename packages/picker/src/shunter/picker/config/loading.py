"""From the text of a file to a plan, and back."""

import random
from collections.abc import Callable, Mapping

import msgspec

from shunter.picker.config.building import build
from shunter.picker.config.builtins import read_builtin
from shunter.picker.config.completion import Completion
from shunter.picker.config.document import EndpointPickerConfig, parse
from shunter.picker.config.former import modernise
from shunter.picker.config.reading import write_yaml
from shunter.picker.core.policy import Crew, Policy
from shunter.picker.errors import ConfigError

__all__ = ["DEFAULT", "Plan", "effective", "import_plugin", "load", "rehearse"]

DEFAULT = read_builtin("default")


class Plan(msgspec.Struct, frozen=True):
    """A configuration that holds together: the file with every default written out, and the policy it comes down to."""

    config: EndpointPickerConfig
    policy: Policy
    notes: tuple[str, ...] = ()  # what the file says in a deprecated way, or in vain; each begins with its place
    places: Mapping[str, str] = {}  # of the plugins that the file declares, by name


def load(text: str | bytes = DEFAULT, *, find: Callable[[str], None] | None = None) -> Plan:
    """Return the plan for a YAML (or JSON) text; raise ConfigError.

    ``find`` is called with a plugin type that the catalogue lacks and may enter it; by default it is ``import_plugin``.
    """
    modern = modernise(parse(text))
    complete = Completion(modern, find or import_plugin)
    policy = build(complete.config, complete.plugins, flows=complete.flows)
    declared = (each for each in complete.plugins if each.place.startswith("$.plugins["))
    places = {each.name: each.place.removesuffix(".parameters") for each in declared}
    return Plan(complete.config, policy, tuple(modern.notes), places)


def rehearse(plan: Plan) -> None:
    """Start every plugin as a worker would; raise ConfigError naming one that cannot be started."""
    Crew(plan.policy, random.Random(0), lambda _name, _data: None)  # noqa: S311  no secret


def effective(plan: Plan) -> str:
    """Return the configuration as YAML with every default written out; it loads to the same policy."""
    return write_yaml(msgspec.to_builtins(plan.config))


def import_plugin(type_name: str) -> None:
    """Import the module that an installed package announces for this plugin type, if one does."""
    from importlib.metadata import entry_points  # noqa: PLC0415  a tenth of what a worker imports, and seldom needed

    for entry in entry_points(group="shunter.plugins", name=type_name):
        try:
            entry.load()
        except Exception as error:
            raise ConfigError(f"plugin {type_name!r} ({entry.value}) cannot be imported: {error!r}") from error
