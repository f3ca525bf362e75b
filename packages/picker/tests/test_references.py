"""Whom plugins name in their parameters: who is meant, who comes with it, and what cannot be."""

import pytest

from shunter.picker import config
from shunter.picker.errors import ConfigError
from shunter.picker.plugins import Kind, Plugin, Reference
from shunter.picker.plugins.catalogue import Part

HEAD = "apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\n"


def test_plugins_that_refer_to_each_other_in_a_circle_are_refused(register_plugin):
    class Friend(Plugin, frozen=True):
        """Asks somebody else."""

        friend: str = ""
        references = (Reference("friend", Kind.SCORER),)

    register_plugin("friend-scorer", Kind.SCORER)(Friend)
    pair = "{type: friend-scorer, name: a, parameters: {friend: b}}, {type: friend-scorer, name: b, parameters: {friend: %s}}"
    with pytest.raises(ConfigError, match="circle: a → b → a"):
        config.load(HEAD + f"plugins: [{pair % 'a'}]")
    with pytest.raises(ConfigError, match=r"plugins\[1\]\.parameters\.friend: no plugin is named 'c'"):
        config.load(HEAD + f"plugins: [{pair % 'c'}]")


def test_who_is_referred_to_works_though_no_profile_lists_it(register_plugin):
    class Told(Plugin, frozen=True):
        """Knows something."""

        def produce(self, request, fleet):
            return 1

    class Asker(Plugin, frozen=True):
        """Asks."""

        about: dict[str, str] | None = None
        references = (Reference("about.told", Kind.PRODUCER, implied="told-producer"),)

        def score(self, request, fleet):
            return [1.0] * len(fleet)

    register_plugin("told-producer", Kind.PRODUCER)(Told)
    register_plugin("asker-scorer", Kind.SCORER)(Asker)
    plan = config.load(HEAD + "plugins: [{type: asker-scorer}]")
    assert [each.name for each in plan.policy.producers] == ["told-producer"]
    assert plan.policy.profile.scorers[0].plugin.about == {"told": "told-producer"}


class Where(Part, frozen=True):
    """Where to ask."""

    told: str = ""
    attribute: str = ""


class Place(Part, frozen=True):
    """Several places."""

    wheres: tuple[Where, ...] = ()
    names: tuple[str, ...] = ()


def test_references_are_followed_however_deep_they_stand(register_plugin):
    class Told(Plugin, frozen=True):
        """Knows something."""

        def produce(self, request, fleet):
            return 1

    class Asker(Plugin, frozen=True):
        """Asks."""

        about: tuple[Place, ...] = ()
        references = (
            Reference("about[].wheres[].told", Kind.PRODUCER, implied="told-producer", told_by="attribute"),
            Reference("about[].names[]", Kind.PRODUCER),
        )

        def score(self, request, fleet):
            return [1.0] * len(fleet)

    register_plugin("told-producer", Kind.PRODUCER)(Told)
    register_plugin("asker-scorer", Kind.SCORER)(Asker)
    text = HEAD + "plugins: [{type: told-producer, name: x}, {type: told-producer}, {type: asker-scorer, parameters: %s}]"
    plan = config.load(text % "{about: [{}, {wheres: [{}, {attribute: x}], names: [x]}]}")
    (place,) = plan.policy.profile.scorers[0].plugin.about[1:]
    assert [where.told for where in place.wheres] == ["told-producer", "x"]
    assert {each.name for each in plan.policy.producers} == {"told-producer", "x"}
    for wrong, where in (("wheres: [{}, {attribute: y}]", "wheres[1].attribute"), ("names: [x, y]", "names[1]")):
        with pytest.raises(ConfigError) as error:
            config.load(text % f"{{about: [{{{wrong}}}]}}")
        assert f"$.plugins[2].parameters.about[0].{where}: no " in str(error.value)


def test_what_is_implied_implies_more():
    plan = config.load(HEAD + "plugins: [{type: latency-slo-admitter}]")
    (predictor,) = (each.plugin for each in plan.policy.producers)
    assert predictor.prefix_match_info_producer_name == "approx-prefix-cache-producer"
    again = config.load(config.effective(plan))
    assert (again.config, again.policy) == (plan.config, plan.policy)
