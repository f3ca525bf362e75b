"""What a configuration comes down to, and its plugins at work in one judge."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, cast

import msgspec

from shunter.picker.core.flow import FlowSettings
from shunter.picker.core.formats import FORMATS, Format
from shunter.picker.core.kinds import Dice, Named, Picker, Profile, Setting
from shunter.picker.core.precise import PreciseSettings
from shunter.picker.core.prefix import PrefixSettings
from shunter.picker.errors import ConfigError

__all__ = ["Crew", "Policy"]


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """Plugins in the order in which they run, and settings of what is not a plugin."""

    profiles: tuple[Profile, ...]  # at least one
    handler: Named | None = None  # None: the first profile runs, and that is all
    detector: Named | None = None  # None: the pool is never saturated
    producers: tuple[Named, ...] = ()
    admitters: tuple[Named, ...] = ()
    others: tuple[Named, ...] = ()  # whom only other plugins look for
    flow: FlowSettings | None = None  # None: nobody waits, and of who comes in vain only those below zero are refused
    prefixes: Mapping[str, PrefixSettings] = {}  # what is remembered of prompts, by producer; the first is request.prefix
    precise: PreciseSettings | None = None  # None: nobody asks the engines what they hold
    formats: tuple[Format, ...] = FORMATS
    passthrough: bool = True
    needs: tuple[str, ...] = ()  # of the response: any of "headers", "body"

    @property
    def profile(self) -> Profile:
        """The first one, which mostly is the only one."""
        return self.profiles[0]

    def plugins(self) -> Iterator[Named]:
        """Yield all plugins, by name; one that stands in several places comes several times."""
        for profile in self.profiles:
            yield from profile.filters
            yield from (Named(each.name, each.plugin) for each in profile.scorers)
            yield Named(profile.picker_name, profile.picker)
        yield from (each for each in (self.handler, self.detector) if each is not None)
        yield from (*self.producers, *self.admitters, *self.others)


class Crew:
    """A policy's plugins at work: each is started when it is first needed, once; a picker once for each profile.

    A picker chooses among the candidates of one profile, and whose turn it is among those has nothing to do with others.
    """

    def __init__(self, policy: Policy, dice: Dice, tell: Callable[[str, bytes], None]) -> None:
        """``tell`` carries a plugin's name and words to the other workers."""
        self._plugins = {each.name: each.plugin for each in policy.plugins()}
        self._started: dict[str, Any] = {}
        self._staffed: set[str] = set()  # names of pickers that a profile has
        self._dice = dice
        self._tell = tell
        self._profiles = tuple(each.name for each in policy.profiles)
        for name in self._plugins:
            self.find(name)

    def find(self, name: str) -> Any:
        """Return a plugin at work; raise KeyError if the policy has none of that name."""
        if name not in self._started:
            self._started[name] = self._start(name)
        return self._started[name]

    def able(self, method: str) -> list[tuple[str, Any]]:
        """Return, by name and in order, who has this method."""
        return [(name, each) for name, each in self._started.items() if hasattr(each, method)]

    def staff(self, profile: Profile) -> Profile:
        """Return the profile with the plugins that do the work."""
        name = profile.picker_name
        picker = self._start(name) if name in self._staffed else self.find(name)
        self._staffed.add(name)
        return msgspec.structs.replace(
            profile,
            picker=cast("Picker", picker),
            filters=tuple(Named(each.name, self.find(each.name)) for each in profile.filters),
            scorers=tuple(msgspec.structs.replace(each, plugin=self.find(each.name)) for each in profile.scorers),
        )

    def _start(self, name: str) -> Any:
        plugin = self._plugins[name]
        start = getattr(plugin, "start", None)
        setting = Setting(name, self._dice, self.find, partial(self._tell, name), self._profiles)
        try:
            return start(setting) if start else plugin
        except ConfigError:
            raise
        except Exception as error:  # a plugin is foreign code
            raise ConfigError(f"the plugin {name!r} raised {error!r} when it was started; mend it, or leave it out") from error
