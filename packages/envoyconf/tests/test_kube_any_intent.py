"""Whatever an intent says, each Kubernetes gateway is given objects that its definitions accept, or the intent is refused."""

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shunter.envoyconf import Intent, IntentError
from shunter.envoyconf.core.generate import MAKERS, PLAIN_ENVOYS, generate
from shunter.envoyconf.errors import ToolMissingError
from shunter.envoyconf.testing_crds import load_definitions
from shunter.envoyconf.testing_kube import find_crds

NAMES = st.from_regex(r"\A[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?\Z")
HOSTS = st.sampled_from(["*", "llm.example.com", "*.example.com"]) | st.from_regex(
    r"\A(\*\.)?[a-z0-9]([-a-z0-9.]{0,20}[a-z0-9])?\Z"
)
PREFIXES = st.just("/") | st.from_regex(r"\A(/[-A-Za-z0-9._~!$&'()*+,;=:@%]{1,5}){1,3}\Z")
LABELS = st.dictionaries(
    st.from_regex(r"\A(a\.b/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?\Z"),
    st.from_regex(r"\A([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?\Z"),
    min_size=1,
    max_size=3,
)
PICKERS = st.fixed_dictionaries(
    {"failureMode": st.sampled_from(["FailOpen", "FailClose"])},
    optional={"tls": st.just({}), "addresses": st.just(["p:9002"])},
)
POOLS = st.fixed_dictionaries(
    {"name": NAMES, "selector": LABELS, "http2": st.booleans(), "picker": PICKERS},
    optional={"targetPorts": st.lists(st.integers(1, 65535), min_size=1, max_size=8, unique=True)},
)


@st.composite
def intents(draw):
    pools = draw(st.lists(POOLS, min_size=1, max_size=3, unique_by=lambda pool: pool["name"]))
    shares = st.fixed_dictionaries(
        {"name": st.sampled_from([pool["name"] for pool in pools]), "weight": st.integers(1, 1_000_000)}
    )
    routes = st.fixed_dictionaries(
        {"pools": st.lists(shares, min_size=1, max_size=3, unique_by=lambda share: share["name"])},
        optional={
            "prefix": PREFIXES,
            "hosts": st.lists(HOSTS, max_size=2),
            "models": st.lists(st.text(min_size=1, max_size=80), max_size=3),
        },
    )
    listeners = st.fixed_dictionaries(
        {"name": NAMES, "port": st.integers(1, 65535), "hosts": st.lists(HOSTS, min_size=1, max_size=3)}
    )
    return {
        "pools": pools,
        "routes": draw(st.lists(routes, min_size=1, max_size=3)),
        "listeners": draw(st.lists(listeners, min_size=1, max_size=2)),
        "profile": draw(st.sampled_from(["full", "lean", "native"])),
        "kubernetes": {"namespace": draw(NAMES), "gateway": draw(NAMES)},
        **draw(st.sampled_from([{}, {"modelHeader": "x-model"}])),
    }


@pytest.fixture(scope="module")
def definitions():
    try:
        return load_definitions(find_crds())
    except ToolMissingError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("target", [target for target in MAKERS if target not in PLAIN_ENVOYS])
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(plain=intents())
def test_what_is_generated_is_valid(target, plain, definitions):
    try:
        documents = generate(msgspec.convert(plain, Intent), target).documents
    except (IntentError, msgspec.ValidationError):
        return
    for document in documents:
        if (document["apiVersion"], document["kind"]) in definitions:
            assert definitions.examine(document).problems == (), document
