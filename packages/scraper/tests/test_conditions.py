"""What a status should say, and that nothing is written that it says already."""

import json

import msgspec
import pytest

from shunter.scraper.core.complaints import Complaint
from shunter.scraper.core.conditions import ACCEPTED, Judged, judgements, status_of
from shunter.scraper.core.manifests import Key
from shunter.scraper.core.mirror import Mirror
from shunter.scraper.core.reflection import Reflection
from shunter.scraper.core.resources import RESOURCES

NOW, EARLIER = "2026-11-26T12:00:00Z", "2026-11-26T11:00:00Z"
OBJECTIVES = next(each for each in RESOURCES if each.plural == "inferenceobjectives")
MISSING = Complaint("PoolNotFound", "spec.poolRef.name: there is no InferencePool a in its namespace yet")


def objective(name, *, pool="a", priority=1, generation=3):
    meta = {"name": name, "namespace": "n", "generation": generation}
    return {"metadata": meta, "spec": {"poolRef": {"name": pool}, "priority": priority}}


def judged(*objectives):
    reflection = Reflection(OBJECTIVES)
    reflection.begin()
    reflection.take_page(json.dumps({"metadata": {"resourceVersion": "1"}, "items": objectives}).encode())
    mirror = Mirror([reflection])
    mirror.cluster()
    return list(judgements([reflection], mirror.complaints))


def one(complaint=ACCEPTED, stated=None):
    return Judged(OBJECTIVES, Key("n", "o"), "u", 3, complaint, stated)


def condition(judgement, now=NOW):
    return status_of(judgement, now)["status"]["conditions"][0]


def test_an_object_without_its_pool_is_told_so():
    (found,) = judged(objective("o"))
    assert (found.key, found.generation, found.complaint) == (Key("n", "o"), 3, MISSING)


def test_an_object_that_cannot_be_read_is_told_the_field():
    (found,) = judged(objective("o", priority="high"))
    assert (found.complaint.reason, found.generation) == ("Invalid", 3)
    assert "$.spec.priority" in found.complaint.message


def test_a_status_names_generation_reason_and_time():
    assert status_of(one(MISSING), NOW) == {
        "apiVersion": "llm-d.ai/v1alpha2",
        "kind": "InferenceObjective",
        "metadata": {"name": "o", "namespace": "n"},
        "status": {
            "conditions": [
                {
                    "type": "Accepted",
                    "status": "False",
                    "reason": "PoolNotFound",
                    "message": MISSING.message,
                    "observedGeneration": 3,
                    "lastTransitionTime": NOW,
                }
            ]
        },
    }


def test_what_is_said_already_is_not_said_again():
    said = status_of(one(), NOW)["status"]
    assert status_of(one(stated=said), "2027-01-01T00:00:00Z") is None


def test_the_time_is_that_of_the_change_between_true_and_false():
    said = {"conditions": [condition(one(MISSING), EARLIER)]}
    other = Complaint("NameInUse", "metadata.name: …")
    assert condition(one(other, stated=said))["lastTransitionTime"] == EARLIER
    assert condition(one(ACCEPTED, stated=said))["lastTransitionTime"] == NOW


def test_conditions_of_others_are_left_alone():
    said = {"conditions": [{"type": "Ready", "status": "True"}]}
    assert [each["type"] for each in status_of(one(stated=said), NOW)["status"]["conditions"]] == ["Accepted"]


@pytest.mark.parametrize("stated", [None, [], {"conditions": 3}, {"conditions": [{"status": "True"}]}, "x"])
def test_a_status_that_is_none_is_written_anew(stated):
    assert condition(one(stated=stated))["status"] == "True"


def test_a_long_message_is_cut_to_what_kubernetes_takes():
    assert len(condition(one(Complaint("Invalid", "x" * 100_000)))["message"]) == 32768


def test_a_status_is_what_an_api_server_can_read():
    assert msgspec.json.encode(status_of(one(MISSING), NOW))
