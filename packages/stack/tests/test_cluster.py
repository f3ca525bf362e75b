"""What is wrong with objects is said below the table, as far as there is room."""

import msgspec

from shunter.stack.core.cluster import SHOWN, Cluster, Complaint, Following, grievances


def cluster(complaints=0, **following):
    return Cluster(
        version="1",
        schema=1,
        now_s=0,
        generation=1,
        following=tuple(Following("pods", place, known=True, trouble=trouble) for place, trouble in following.items()),
        complaints=tuple(
            Complaint("inferencepools.g", "llm", f"p{n}", "NoEndpoints", "no endpoint belongs to it") for n in range(complaints)
        ),
    )


def test_a_cluster_that_is_well_is_not_spoken_of():
    assert grievances(cluster(here="")) == []


def test_troubles_come_before_complaints():
    assert grievances(cluster(1, here="HTTP 403: no")) == [
        "here: HTTP 403: no",
        "inferencepools.g llm/p0: no endpoint belongs to it",
    ]


def test_of_many_the_first_are_shown_and_the_others_counted():
    lines = grievances(cluster(SHOWN + 2))
    assert len(lines) == SHOWN + 1
    assert lines[-1] == "… and 2 more at /debug/cluster of the scraper"


def test_what_newer_scrapers_say_besides_is_ignored():
    page = msgspec.to_builtins(cluster(here="")) | {"imports": []}
    assert msgspec.convert(page, Cluster) == cluster(here="")
