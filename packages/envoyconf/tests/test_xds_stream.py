"""What a stream owes its client, against a model of an Envoy that does what real ones were seen to do."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from shunter.envoyconf import IntentError
from shunter.envoyconf.core.xds import stream as module
from shunter.envoyconf.core.xds.channel import MAX_NAMES, Request, SubscriptionError
from shunter.envoyconf.core.xds.kinds import Kind
from shunter.envoyconf.core.xds.state import State, make_item
from shunter.envoyconf.core.xds.stream import Form, Stream

both_forms = pytest.mark.parametrize("form", Form)


def item(name, content="", refers=()):
    return make_item(name, f"{name}={content}".encode(), refers)


def serve(pools, **contents):
    """Return a state with these pools, all reached by one route configuration of one listener."""
    clusters = {name: item(name, contents.get(name, ""), [f"{name}/eps"]) for name in pools}
    return State(
        {
            Kind.CLUSTER: clusters.values(),
            Kind.ENDPOINTS: [item(f"{name}/eps", contents.get(f"{name}_eps", "")) for name in pools],
            Kind.LISTENER: [item("http", contents.get("http", ""), ["routes"])],
            Kind.ROUTES: [item("routes", ",".join(pools), pools)],
        }
    )


class ModelEnvoy:
    """Asks, warms, accepts and refuses as Envoy does; knows when a request would fail."""

    def __init__(self, form):
        self.form = form
        self.clusters = {}  # active ones: name → item
        self.warming = {}
        self.endpoints = {}
        self.listeners = {}
        self.routes = {}
        self.bad = set()  # versions that it refuses
        self.excused = set()  # clusters refused when there was nothing yet that could have been kept
        self.inbox = []
        self.outbox = []
        self.versions = {}  # accepted, by kind
        self.connect()

    def connect(self):
        """Begin a stream: everything is asked for at once; an Envoy that has nothing yet asks for listeners last."""
        self.inbox.clear()
        self.outbox.clear()
        self.nonces, self.names, self.withheld = {}, {}, None
        self.warming.clear()
        self.ask(Kind.CLUSTER, set())
        if self.clusters:
            self.ask(Kind.ENDPOINTS, self.needed())
        if self.started:
            self.listen()

    @property
    def started(self):
        return Kind.CLUSTER in self.versions

    def listen(self):
        self.ask(Kind.LISTENER, set())
        if self.listeners:
            self.ask(Kind.ROUTES, {name for each in self.listeners.values() for name in each.refers})

    def needed(self):
        return {name for each in (*self.clusters.values(), *self.warming.values()) for name in each.refers}

    def has(self, kind):
        place = {Kind.CLUSTER: self.clusters, Kind.ENDPOINTS: self.endpoints, Kind.LISTENER: self.listeners}
        return place.get(kind, self.routes)

    def ask(self, kind, names):
        """Say which names are wanted, if that has changed."""
        first = kind not in self.names
        before = self.names.get(kind, set())
        self.names[kind] = names
        for name in before - names:
            self.has(kind).pop(name, None)
        if not first and names == before:
            return
        if self.form is Form.DELTA:
            held = (
                {name: each.version for name, each in self.has(kind).items() if kind.complete or name in names} if first else {}
            )
            new, old = tuple(sorted(names - before)), tuple(sorted(before - names))
            self.outbox.append(Request(kind=kind, names=new, unwanted=old, held=held))
        else:
            nonce = self.nonces.get(kind, "")
            self.outbox.append(Request(kind=kind, names=tuple(sorted(names)), nonce=nonce, version=self.versions.get(kind, "")))

    def reply(self, response, error=None):
        kind = response.kind
        self.nonces[kind] = response.nonce
        if error is None:
            self.versions[kind] = response.version
        names = () if self.form is Form.DELTA else tuple(sorted(self.names[kind]))
        self.outbox.append(Request(kind=kind, names=names, nonce=response.nonce, error=error))

    def read(self):
        response = self.inbox.pop(0)
        items = {each.name: each for each in response.items}
        good = {name: each for name, each in items.items() if each.version not in self.bad}
        error = "bad" if good != items else None
        gone = {*response.removed}
        if response.kind.complete and self.form is Form.STATE_OF_THE_WORLD:
            gone = self.has(response.kind).keys() - items.keys()
        if response.kind is Kind.CLUSTER:
            if error and not self.listeners:  # in the state of the world nobody can tell good from bad
                self.excused |= items.keys() - (good.keys() if self.form is Form.DELTA else set())
            for name in gone:
                self.clusters.pop(name, None)
                self.warming.pop(name, None)
            self.warming |= {name: each for name, each in good.items() if each != self.clusters.get(name)}
            self.withheld = (response, error)
            self.ask(Kind.ENDPOINTS, self.needed())
            self.warm()
            return
        if response.kind is Kind.ENDPOINTS:
            self.endpoints |= good
            for name in gone:
                self.endpoints.pop(name, None)
            # What waits is served by a message that comes after it, not by what is there.
            for name in [name for name, each in self.warming.items() if {*each.refers} <= good.keys() | gone]:
                self.clusters[name] = self.warming.pop(name)
        else:
            place = self.has(response.kind)
            place |= good
            if response.kind is Kind.LISTENER:
                for name in gone:
                    place.pop(name, None)
        self.reply(response, error)
        if response.kind is Kind.LISTENER:
            self.ask(Kind.ROUTES, {name for each in self.listeners.values() for name in each.refers})
        self.warm()

    def warm(self):
        """Answer for clusters when all are warm; only then does a new Envoy ask for listeners."""
        if self.withheld and not self.warming:
            response, error = self.withheld
            self.withheld = None
            self.reply(response, error)
            if Kind.LISTENER not in self.names:
                self.versions.setdefault(Kind.CLUSTER, "")
                self.listen()

    def broken(self):
        """Return the clusters to which requests go in vain."""
        used = {name for each in self.listeners.values() for name in each.refers if name in self.routes}
        return {name for each in used for name in self.routes[each].refers} - self.clusters.keys() - self.excused


def run(stream, client):
    """Let both talk until neither has anything to say."""
    for _ in range(1000):
        assert not client.broken()
        if client.outbox:
            stream.receive(client.outbox.pop(0))
        elif response := stream.next():
            client.inbox.append(response)
        elif client.inbox:
            client.read()
        else:
            return
    raise AssertionError("no end to it")


def versions(client):
    return {kind: {name: each.version for name, each in client.has(kind).items()} for kind in Kind if kind is not Kind.SECRET}


def goal(state):
    return {kind: {name: each.version for name, each in state.of(kind).items()} for kind in Kind if kind is not Kind.SECRET}


def settled(form, state):
    client = ModelEnvoy(form)
    stream = Stream(form, state)
    run(stream, client)
    assert versions(client) == goal(state)
    return stream, client


def sent(stream, client):
    """Let both talk, and return what was sent."""
    log = []
    real = stream.next

    def listen():
        if response := real():
            log.append((response.kind.short, [each.name for each in response.items], list(response.removed)))
        return response

    stream.next = listen
    run(stream, client)
    stream.next = real
    return log


@both_forms
def test_a_new_client_gets_everything_once(form):
    stream, client = Stream(form, serve(["a", "b"])), ModelEnvoy(form)
    kinds = [kind for kind, _, _ in sent(stream, client)]
    assert kinds == ["CDS", "EDS", "LDS", "RDS"]


@both_forms
def test_endpoints_that_change_touch_endpoints_only(form):
    stream, client = settled(form, serve(["a", "b"]))
    stream.aim(serve(["a", "b"], a_eps="moved"))
    assert sent(stream, client) == [("EDS", ["a/eps"], [])]


@both_forms
def test_a_cluster_that_changes_is_followed_by_its_endpoints(form):
    stream, client = settled(form, serve(["a", "b"]))
    stream.aim(serve(["a", "b"], a="other"))
    log = sent(stream, client)
    assert [kind for kind, _, _ in log] == ["CDS", "EDS"]
    assert log[1] == ("EDS", ["a/eps"], [])


def test_a_client_notices_if_endpoints_do_not_follow():
    stream, client = settled(Form.DELTA, serve(["a"]))
    stream.aim(serve(["a"], a="other"))
    client.inbox.append(stream.next())
    stream.channels[Kind.ENDPOINTS].due.clear()
    run(stream, client)
    assert client.warming


@both_forms
def test_a_cluster_that_goes_while_it_warms_is_warmed_first(form):
    stream, client = settled(form, serve(["a"]))
    stream.aim(serve(["a", "b"]))
    client.inbox.append(stream.next())
    stream.aim(serve(["a"]))
    run(stream, client)
    assert not client.warming
    assert versions(client) == goal(serve(["a"]))


@both_forms
def test_a_pool_that_comes_is_made_before_it_is_used(form):
    stream, client = settled(form, serve(["a"]))
    stream.aim(serve(["a", "b"]))
    assert [kind for kind, _, _ in sent(stream, client)] == ["CDS", "EDS", "RDS"]


@both_forms
def test_a_pool_that_goes_is_used_no_longer_before_it_is_taken_away(form):
    stream, client = settled(form, serve(["a", "b"]))
    stream.aim(serve(["a"]))
    log = sent(stream, client)
    assert [kind for kind, _, _ in log][:2] == ["RDS", "CDS"]
    assert versions(client)[Kind.CLUSTER].keys() == {"a"}


@both_forms
@pytest.mark.parametrize("hasty", ["routes", "removals"])
def test_the_model_notices_a_server_that_does_not_wait(hasty, form, monkeypatch):
    stream, client = settled(form, serve(["a", "b"]))
    if hasty == "routes":
        monkeypatch.setattr(Stream, "_open", lambda *_: True)
        stream.aim(serve(["a", "b", "c"]))
    else:
        monkeypatch.setattr(module, "REMOVED", ())
        stream.aim(serve(["a"]))
    while response := stream.next():
        client.inbox.append(response)
    while client.inbox and not client.broken():
        client.read()
    assert client.broken()


@both_forms
def test_what_was_refused_is_not_sent_again_until_it_changes(form):
    stream, client = settled(form, serve(["a", "b"]))
    bad = serve(["a", "b"], a="bad")
    client.bad.add(bad.of(Kind.CLUSTER)["a"].version)
    stream.aim(bad)
    assert [kind for kind, _, _ in sent(stream, client)][:1] == ["CDS"]
    assert stream.channels[Kind.CLUSTER].error == "bad"
    stream.aim(serve(["a", "b"], a="bad", a_eps="moved"))
    assert sent(stream, client) == [("EDS", ["a/eps"], [])]
    stream.aim(serve(["a", "b"], a="good"))
    assert "CDS" in [kind for kind, _, _ in sent(stream, client)]
    assert stream.channels[Kind.CLUSTER].error is None
    assert versions(client)[Kind.CLUSTER] == goal(serve(["a", "b"], a="good"))[Kind.CLUSTER]


@both_forms
def test_what_came_with_something_refused_is_put_right_when_the_goal_goes_back(form):
    stream, client = settled(form, serve(["a", "b"]))
    bad = serve(["a", "b"], a="bad", b="fine")
    client.bad.add(bad.of(Kind.CLUSTER)["a"].version)
    stream.aim(bad)
    run(stream, client)
    stream.aim(serve(["a", "b"]))
    run(stream, client)
    assert versions(client) == goal(serve(["a", "b"]))


@both_forms
def test_no_route_leads_to_a_refused_cluster(form):
    stream, client = settled(form, serve(["a"]))
    bad = serve(["a", "b"], b="bad")
    client.bad.add(bad.of(Kind.CLUSTER)["b"].version)
    stream.aim(bad)
    assert "RDS" not in [kind for kind, _, _ in sent(stream, client)]


@both_forms
def test_no_route_relies_on_a_refused_listener(form):
    stream, client = settled(form, serve(["a"]))
    bad = serve(["a", "b"], http="bad")
    client.bad.add(bad.of(Kind.LISTENER)["http"].version)
    stream.aim(bad)
    assert [kind for kind, _, _ in sent(stream, client)] == ["CDS", "EDS", "LDS"]
    stream.aim(serve(["a", "b"], http="good"))
    assert [kind for kind, _, _ in sent(stream, client)] == ["LDS", "RDS"]


def test_a_client_that_comes_back_is_sent_the_difference():
    _, client = settled(Form.DELTA, serve(["a", "b", "c"]))
    stream = Stream(Form.DELTA, serve(["a", "b", "c"], b_eps="moved"))
    client.connect()
    changes = [(kind, items) for kind, items, _ in sent(stream, client) if items]
    assert changes == [("EDS", ["b/eps"])]


def test_a_client_that_comes_back_is_not_taken_away_what_it_uses():
    _, client = settled(Form.DELTA, serve(["a", "b"]))
    stream = Stream(Form.DELTA, serve(["a"]))
    client.connect()
    run(stream, client)
    assert versions(client)[Kind.CLUSTER].keys() == {"a"}


def test_delta_says_what_is_not_there_and_sends_it_when_it_is():
    stream = Stream(Form.DELTA, serve(["a"]))
    stream.receive(Request(kind=Kind.ENDPOINTS, names=("z/eps",)))
    response = stream.next()
    assert (response.items, response.removed) == ((), ("z/eps",))
    stream.receive(Request(kind=Kind.ENDPOINTS, nonce=response.nonce))
    assert stream.next() is None
    stream.aim(serve(["z"]))
    assert [each.name for each in stream.next().items] == ["z/eps"]


def test_delta_sends_again_what_is_asked_for_again():
    stream = Stream(Form.DELTA, serve(["a"]))
    for _ in range(2):
        stream.receive(Request(kind=Kind.ENDPOINTS, names=("a/eps",)))
        response = stream.next()
        assert [each.name for each in response.items] == ["a/eps"]
        stream.receive(Request(kind=Kind.ENDPOINTS, nonce=response.nonce))


def test_a_stale_nonce_changes_nothing():
    stream = Stream(Form.STATE_OF_THE_WORLD, serve(["a", "b"]))
    stream.receive(Request(kind=Kind.ENDPOINTS, names=("a/eps",)))
    first = stream.next()
    stream.receive(Request(kind=Kind.ENDPOINTS, names=("a/eps", "b/eps"), nonce=first.nonce))
    second = stream.next()
    assert [each.name for each in second.items] == ["b/eps"]
    stream.receive(Request(kind=Kind.ENDPOINTS, names=("a/eps",), nonce=first.nonce, error="late"))
    channel = stream.channels[Kind.ENDPOINTS]
    assert channel.waiting is second
    assert (channel.names, channel.error) == ({"a/eps", "b/eps"}, None)


def test_grpc_clients_ask_for_listeners_and_clusters_by_name():
    stream = Stream(Form.STATE_OF_THE_WORLD, serve(["a", "b"]))
    for kind, names in [(Kind.LISTENER, ("http",)), (Kind.ROUTES, ("routes",)), (Kind.CLUSTER, ("b",))]:
        stream.receive(Request(kind=kind, names=names))
        response = stream.next()
        assert (response.kind, tuple(each.name for each in response.items)) == (kind, names)
        stream.receive(Request(kind=kind, names=names, nonce=response.nonce))
    assert stream.next() is None


def test_one_response_of_a_kind_is_under_way_and_only_the_newest_follows():
    stream = Stream(Form.DELTA, serve(["a"]))
    stream.receive(Request(kind=Kind.ENDPOINTS, names=("a/eps",)))
    first = stream.next()
    for number in range(10):
        stream.aim(serve(["a"], a_eps=str(number)))
        assert stream.next() is None
    stream.receive(Request(kind=Kind.ENDPOINTS, nonce=first.nonce))
    assert stream.next().items == (serve(["a"], a_eps="9").of(Kind.ENDPOINTS)["a/eps"],)


def test_names_are_bounded():
    stream = Stream(Form.DELTA, serve(["a"]))
    with pytest.raises(SubscriptionError, match="100001"):
        stream.receive(Request(kind=Kind.ENDPOINTS, names=tuple(map(str, range(MAX_NAMES + 1)))))


def test_a_state_that_refers_to_nothing_is_refused():
    with pytest.raises(IntentError, match="CDS 'a' refers to EDS 'a/eps'"):
        State({Kind.CLUSTER: [item("a", refers=["a/eps"])]})
    with pytest.raises(IntentError, match="RDS 'r' is there twice"):
        State({Kind.ROUTES: [item("r"), item("r")]})


pools = st.lists(st.sampled_from("abc"), unique=True, min_size=1, max_size=3).map(sorted)
contents = st.dictionaries(st.sampled_from(["a", "b", "c", "a_eps", "b_eps", "http"]), st.sampled_from("12"), max_size=3)


class Talk(RuleBasedStateMachine):
    """Messages overtake each other's causes, states change in between, some are refused, streams break."""

    form = Form.DELTA

    @initialize(pools=pools)
    def begin(self, pools):
        self.state = serve(pools)
        self.stream = Stream(self.form, self.state)
        self.client = ModelEnvoy(self.form)

    @rule(pools=pools, contents=contents)
    def change(self, pools, contents):
        self.state = serve(pools, **contents)
        self.stream.aim(self.state)

    @rule(contents=contents)
    def touch(self, contents):
        self.state = serve([*self.state.of(Kind.CLUSTER)], **contents)
        self.stream.aim(self.state)

    @precondition(lambda self: self.client.outbox)
    @rule()
    def hear(self):
        self.stream.receive(self.client.outbox.pop(0))

    @rule()
    def say(self):
        if response := self.stream.next():
            self.client.inbox.append(response)

    @precondition(lambda self: self.client.inbox)
    @rule()
    def read(self):
        self.client.read()

    @rule(kind=st.sampled_from([Kind.CLUSTER, Kind.LISTENER, Kind.ROUTES]), data=st.data())
    def dislike(self, kind, data):
        names = sorted({*self.state.of(kind)} - {*self.client.has(kind)})
        if names:
            self.client.bad.add(self.state.of(kind)[data.draw(st.sampled_from(names))].version)

    @rule()
    def break_off(self):
        if self.form is Form.STATE_OF_THE_WORLD and not {*self.client.clusters} <= {*self.state.of(Kind.CLUSTER)}:
            return  # who cannot say what it has cannot be kept what has gone meanwhile
        self.stream = Stream(self.form, self.state)
        self.client.connect()

    @invariant()
    def no_request_fails(self):
        if hasattr(self, "client"):
            assert not self.client.broken()

    def teardown(self):
        if not hasattr(self, "client"):
            return
        run(self.stream, self.client)
        self.client.bad.clear()
        self.state = serve(["a", "z"], z="new", a="new", z_eps="new", a_eps="new", http="new")
        self.stream.aim(self.state)
        run(self.stream, self.client)
        assert all(self.stream.current(kind) for kind in self.stream.channels)
        assert versions(self.client) == goal(self.state)


class StateOfTheWorldTalk(Talk):
    form = Form.STATE_OF_THE_WORLD


Talk.TestCase.settings = StateOfTheWorldTalk.TestCase.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None
)
TestDelta = Talk.TestCase
TestStateOfTheWorld = StateOfTheWorldTalk.TestCase
