"""Conditions: what the status of an object of ours should say, and whether it says so already.

Objects that belong to a pool, InferenceObjective and InferenceModelRewrite, get the condition ``Accepted`` (GIE's API): True
with the reason Accepted, or False with a reason of `core.mirror` and a message that names the field. The conditions of an
InferencePool are its gateways' business.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from shunter.scraper.core.complaints import Complaint, Place
from shunter.scraper.core.manifests import Key, Manifest, ObjectiveManifest, RewriteManifest
from shunter.scraper.core.reflection import Reflection
from shunter.scraper.core.resources import Resource

__all__ = ["ACCEPTED", "JUDGED", "Judged", "judgements", "status_of"]

ACCEPTED = Complaint("Accepted", "")
"""What is said of an object that counts."""

JUDGED = (ObjectiveManifest, RewriteManifest)
"""The shapes of what gets a condition."""

# What Kubernetes takes as a condition's message.
MAX_MESSAGE_CHARS = 32768


class Judged(NamedTuple):
    """An object, and what is to be said of it. ``generation`` is that of the specification that was judged.

    One that is made again under its old name has another ``uid``, and begins with the generation 1.
    """

    resource: Resource
    key: Key
    uid: str
    generation: int
    complaint: Complaint
    stated: object
    """The status that it has, as far as it could be read."""


def judgements(reflections: Sequence[Reflection], complaints: Mapping[Place, Complaint]) -> Iterator[Judged]:
    """Yield what is to be said of each object that gets a condition; the complaints are those of the same moment."""
    for each in reflections:
        if each.resource.shape not in JUDGED:
            continue
        title = each.resource.title
        for key, found in each.objects.items():
            if isinstance(found, Manifest):
                meta, complaint = found.metadata, complaints.get((title, key), ACCEPTED)
                yield Judged(each.resource, key, meta.uid, meta.generation, complaint, found.status)
        for key, refusal in each.refused.items():
            yield Judged(each.resource, key, refusal.uid, refusal.generation, complaints[title, key], None)


class _Condition(msgspec.Struct, rename="camel"):
    type: str
    status: str = ""
    reason: str = ""
    message: str = ""
    observed_generation: int | None = None
    last_transition_time: str = ""


class _Status(msgspec.Struct):
    conditions: list[_Condition] = msgspec.field(default_factory=list[_Condition])


def status_of(judged: Judged, now: str) -> dict[str, Any] | None:
    """Return what to apply to the object's status, at the time ``now`` (RFC 3339); None if it says so already."""
    try:
        stated = msgspec.convert(judged.stated or {}, _Status).conditions
    except msgspec.ValidationError:
        stated = []
    before = next((each for each in stated if each.type == "Accepted"), None)
    condition = _Condition(
        type="Accepted",
        status=str(judged.complaint == ACCEPTED),
        reason=judged.complaint.reason,
        message=judged.complaint.message[:MAX_MESSAGE_CHARS],
        observed_generation=judged.generation,
        last_transition_time=now,
    )
    if before and before.status == condition.status:
        condition.last_transition_time = before.last_transition_time
    if condition == before:
        return None
    return {
        "apiVersion": f"{judged.resource.group}/{judged.resource.version}",
        "kind": judged.resource.kind,
        "metadata": {"name": judged.key.name, "namespace": judged.key.namespace},
        "status": {"conditions": [msgspec.to_builtins(condition)]},
    }
