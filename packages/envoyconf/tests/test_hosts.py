"""Which routes a request may take by its host, against a reading of Gateway API's rules that is slow and plain."""

import json
from fnmatch import fnmatchcase

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shunter.envoyconf import IntentError, Route, load_intent
from shunter.envoyconf.core.envoy.hosts import virtual_hosts
from shunter.envoyconf.core.intent.hosts import meet

LABELS = st.sampled_from(["a", "b"])
NAMES = st.lists(LABELS, min_size=1, max_size=4).map(".".join)
PATTERNS = NAMES | NAMES.map("*.{}".format) | st.just("*")
HOSTS = st.lists(PATTERNS, max_size=3, unique=True)


def matches(pattern, name):
    return pattern == "*" or fnmatchcase(name, pattern)


def exactness(pattern):
    return not pattern.startswith("*"), len(pattern)


def chosen(served, routes, name):
    """Return the routes for a name, by what Envoy does: the most exact domain's."""
    found = [
        (max(map(exactness, fits)), some) for domains, some in virtual_hosts(served, routes) if (fits := fitting(domains, name))
    ]
    return max(found, key=lambda each: each[0])[1] if found else []


def fitting(patterns, name):
    return [each for each in patterns if matches(each, name)]


@given(st.lists(PATTERNS, min_size=1, max_size=3, unique=True), st.lists(HOSTS, min_size=1, max_size=4), NAMES)
def test_the_more_exact_host_goes_first_and_then_the_order(served, hosts, name):
    routes = [Route(pool="p", prefix=f"/{number}", hosts=tuple(each)) for number, each in enumerate(hosts)]
    expected = []
    if fitting(served, name):
        fit = [route for route in routes if not route.hosts or fitting(route.hosts, name)]
        expected = sorted(fit, key=lambda route: max(map(exactness, fitting(route.hosts or ["*"], name))), reverse=True)
    assert chosen(served, routes, name) == expected


@given(PATTERNS, PATTERNS, NAMES)
def test_what_two_patterns_have_in_common_is_what_both_match(one, other, name):
    met = meet(one, other)
    assert (met is not None and matches(met, name)) == (matches(one, name) and matches(other, name))
    assert meet(other, one) == met


@given(st.lists(HOSTS, min_size=1, max_size=5))
def test_no_domain_is_there_twice(hosts):
    """Envoy refuses a route configuration in which one is."""
    found = [
        domain
        for domains, _ in virtual_hosts(["*"], [Route(pool="p", hosts=tuple(each)) for each in hosts])
        for domain in domains
    ]
    assert len(found) == len(set(found))


@pytest.mark.parametrize(("one", "other"), [("*.b", "b"), ("*.ab", "*.b"), ("a", "b")])
def test_patterns_that_have_no_name_in_common_do_not_meet(one, other):
    assert meet(one, other) is None


@pytest.mark.parametrize("host", ["a..b", ".a", "a.-b", "a-.b", "*.", "**.a", "A", "a_b", "a\n", 64 * "a", "a" + 127 * ".a"])
def test_what_dns_and_gateway_api_would_not_have_is_no_host(host):
    with pytest.raises(IntentError, match=r"\$\.listeners\[0\]\.hosts\[0\]"):
        load_intent(json.dumps({"pools": [{"name": "a", "selector": {"app": "a"}}], "listeners": [{"hosts": [host]}]}))


@pytest.mark.parametrize("host", ["*", "*.a", "a", "0.b", "a--b.c", 63 * "a", "a" + 126 * ".a"])
def test_what_dns_and_gateway_api_have_is_a_host(host):
    load_intent(json.dumps({"pools": [{"name": "a", "selector": {"app": "a"}}], "listeners": [{"hosts": [host]}]}))
