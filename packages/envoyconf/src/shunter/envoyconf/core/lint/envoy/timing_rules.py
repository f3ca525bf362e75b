"""Rules for times: what cuts a stream, what waits for ever, and what gives up too early."""

from collections.abc import Iterator

from shunter.envoyconf.core.lint.envoy.findings import found, of_envoys, of_pool_routes
from shunter.envoyconf.core.lint.envoy.node import Node
from shunter.envoyconf.core.lint.envoy.view import Envoy, Route
from shunter.envoyconf.core.lint.rule import Finding, Rule

__all__ = ["RULES"]

# Envoy's own.
DEFAULT_ROUTE_TIMEOUT_S = 15
DEFAULT_IDLE_TIMEOUT_S = 300

# No answer is written for longer than that. Peers write 86400 s where they mean none.
LONGEST_STREAM_S = 3600

# A model whose answer is not streamed is silent for as long as it thinks: some thousand tokens, at 30 or 40 a second.
LONG_GENERATION_S = 60

# Nobody waits longer for a connection on purpose: a network that drops packets does not answer after ten seconds either.
LONGEST_CONNECT_S = 30


def cut_by_timeout(route: Route) -> Iterator[Finding]:
    timeout = route.action.at("timeout")
    seconds = timeout.seconds if timeout else DEFAULT_ROUTE_TIMEOUT_S
    if seconds and seconds < LONGEST_STREAM_S:
        yield found(
            timeout or route.action,
            f"each response is cut after {seconds:g} s{'' if timeout else ', the default'}, however much of it is still to "
            "come; a stream that began ends in the middle, with status 200",
            "set timeout: 0s, and idle_timeout against silence",
            (timeout, "0s"),
        )


def cut_by_duration(route: Route) -> Iterator[Finding]:
    own = route.action.at("max_stream_duration", "max_stream_duration")
    if not own and route.manager:
        own = route.manager.node.at("common_http_protocol_options", "max_stream_duration")
    clusters = [cluster for branch in route.branches for cluster in branch.clusters]
    limits = [cluster.http_options.at("common_http_protocol_options", "max_stream_duration") for cluster in clusters]
    for place in (own, *limits):
        if (seconds := place.seconds) and seconds < LONGEST_STREAM_S:
            yield found(
                place,
                f"each stream is cut after {seconds:g} s, however much of it is still to come",
                "set it to 0s for routes to model servers, and idle_timeout against silence",
                (place, "0s"),
            )


def _silence(route: Route) -> tuple[Node, float]:
    """Return the longest silence on a request, 0 for any, and who says so."""
    seconds = route.silence.seconds
    return route.silence, DEFAULT_IDLE_TIMEOUT_S if seconds is None else seconds


def hung_for_ever(route: Route) -> Iterator[Finding]:
    place, seconds = _silence(route)
    if seconds == 0 and any(question.is_duplex for question in route.questions):
        yield found(
            place,
            "nothing ends a request whose picker hangs: in FULL_DUPLEX_STREAMED Envoy enforces no message_timeout, the route's "
            "timeout has not begun, and the idle timeout is off",
            f"set idle_timeout, for example to {DEFAULT_IDLE_TIMEOUT_S}s; a hung picker is given up after twice that time",
            (place, f"{DEFAULT_IDLE_TIMEOUT_S}s"),
        )


def silent_generation(route: Route) -> Iterator[Finding]:
    for place, seconds in (_silence(route), _try(route)):
        if 0 < seconds < LONG_GENERATION_S:
            yield found(
                place,
                f"a request of which nothing comes for {seconds:g} s is answered 504; a generation that is not streamed is "
                "silent until it is done",
                f"set it above the longest generation, for example {DEFAULT_IDLE_TIMEOUT_S}s",
                (place, f"{DEFAULT_IDLE_TIMEOUT_S}s"),
            )


def _try(route: Route) -> tuple[Node, float]:
    """Return how long each try may take until the response's headers come, 0 for ever, and who says so."""
    place = route.retry_policy.at("per_try_timeout")
    return place, place.seconds or 0


def default_patience(route: Route) -> Iterator[Finding]:
    place, _ = _silence(route)
    for question in route.questions:
        timeout = question.filter.config.at("message_timeout")
        if question.field("observability_mode").is_true:
            continue
        if not question.is_duplex and not timeout:
            yield found(
                question.filter.node,
                "Envoy waits 200 ms for the picker, the default of message_timeout: on a busy machine, or with a queue in the "
                "picker, requests end in 504, or go on without a pick",
                "set message_timeout, for example to 1s",
                (timeout, "1s"),
            )
        elif question.is_duplex and timeout and not place:
            yield found(
                timeout,
                f"message_timeout {timeout.text} is not enforced in FULL_DUPLEX_STREAMED: a hung picker holds a request for "
                f"twice the idle timeout, which nothing here sets ({DEFAULT_IDLE_TIMEOUT_S} s by default)",
                "set the route's idle_timeout to what a request may be silent",
            )


def patient_connect(envoy: Envoy) -> Iterator[Finding]:
    pools = {cluster.name: cluster for route in envoy.routes for branch in route.branches for cluster in branch.followers}
    pickers = {question.server.name: question.server for question in envoy.questions if question.server}
    for cluster in (pools | pickers).values():
        timeout = cluster.node.at("connect_timeout")
        if (seconds := timeout.seconds) and seconds > LONGEST_CONNECT_S:
            yield found(
                timeout,
                f"an endpoint of {cluster.name!r} whose machine is gone, and does not even refuse, holds a request for "
                f"{seconds:g} s before another is tried",
                "set connect_timeout between 1s and 5s",
                (timeout, "5s"),
            )


RULES = (
    Rule(
        "W16",
        "A wait for the picker that nobody chose",
        "message_timeout is 200 ms unless set, and applies to NONE, STREAMED and BUFFERED. Seen on 1.40.0: in "
        "FULL_DUPLEX_STREAMED a hung picker held a request for ten seconds with message_timeout 1 s.",
        of_pool_routes(default_patience),
        "envoyproxy/ai-gateway#1251, envoyproxy/ai-gateway#1428",
    ),
    Rule(
        "W17",
        "Nothing ends a request whose picker hangs",
        "In FULL_DUPLEX_STREAMED only the idle timeout does, after twice its time, since its own 504 passes the hung picker "
        "too: 6.05 s for 3 s, seen on 1.40.0.",
        of_pool_routes(hung_for_ever),
        "Envoy API, ext_proc ExternalProcessor.message_timeout",
    ),
    Rule(
        "E44",
        "Streams are cut in the middle",
        "A route's timeout counts until the response's last byte, and is 15 s if nobody sets it. Seen on 1.36.2 to 1.40.0: the "
        "stream ends at the timeout, flag UT, status 200.",
        of_pool_routes(cut_by_timeout),
        "Envoy documentation, timeouts, route timeouts and streaming",
    ),
    Rule(
        "W45",
        "Answers that are not streamed are given up",
        "Seen on 1.40.0: a generation of 5 s that was not streamed, idle_timeout 3 s: 504 with the flag SI. per_try_timeout, "
        "too, ends what is silent, and nothing that has begun to come (1.36.2, 1.40.0).",
        of_pool_routes(silent_generation),
        "Envoy API, RouteAction.idle_timeout",
    ),
    Rule(
        "W46",
        "A dead machine holds requests",
        "connect_timeout is 5 s by default; published gateway configurations have 1000 s and 86400 s. A machine that is gone "
        "does not refuse connections, it is silent.",
        of_envoys(patient_connect),
    ),
    Rule(
        "W52",
        "Streams are cut by max_stream_duration",
        "It counts from the first byte of the request to the last of the response, and takes no notice of progress. Seen on "
        "1.36.2 and 1.40.0: of a connection manager, a route or a cluster, the stream ends at the time.",
        of_pool_routes(cut_by_duration),
        "Envoy API, RouteAction.MaxStreamDuration",
    ),
)
