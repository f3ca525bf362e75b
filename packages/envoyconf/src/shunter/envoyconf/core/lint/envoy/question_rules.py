"""Rules for what ext_proc filters ask: modes that Envoy takes and that do not work, and failing open that does not."""

from collections.abc import Iterator

from msgspec import UNSET

from shunter.envoyconf.core.lint.envoy.findings import found, of_pool_routes, of_questions
from shunter.envoyconf.core.lint.envoy.models import picker
from shunter.envoyconf.core.lint.envoy.view import Question, Route
from shunter.envoyconf.core.lint.rule import Finding, Rule

__all__ = ["RULES"]

VERSIONS = "1.36.2, 1.37.0, 1.38.3, 1.39.3 and 1.40.0"

HEALTH_CHECK = {
    "timeout": "2s",
    "interval": "2s",
    "no_traffic_interval": "2s",  # the default of 60 s is how long a picker that comes late would stay unused
    "unhealthy_threshold": 2,
    "healthy_threshold": 1,
    "grpc_health_check": {"service_name": "envoy.service.ext_proc.v3.ExternalProcessor"},
}


def open_to_nowhere(route: Route) -> Iterator[Finding]:
    for branch in route.branches:
        names = [cluster.name for cluster in branch.followers if cluster.is_original_dst]
        question = picker(branch)  # what others are asked, such as a body router, may be left unanswered
        if names and question and question.fails_open:
            yield found(
                question.field("failure_mode_allow"),
                f"failure_mode_allow lets requests go on without a picker, but the cluster {names[0]!r} is ORIGINAL_DST: "
                "without a picked address it has nowhere to send them, and answers 503",
                "use a cluster with known endpoints and the load balancing policy override_host, whose fallback_policy "
                "chooses then; or say failure_mode_allow: false",
            )


def open_without_knowing(question: Question) -> Iterator[Finding]:
    server = question.server
    if server and question.is_duplex and question.fails_open and not server.checks:
        yield found(
            question.field("failure_mode_allow"),
            "failure_mode_allow does not work for requests with a body: in FULL_DUPLEX_STREAMED the first part of it is gone "
            f"before Envoy learns that nobody answers, and the cluster {server.name!r} has no health check to tell it earlier. "
            "A GET passes, a POST is answered 500",
            f"give the cluster {server.name!r} a health check and common_lb_config.healthy_panic_threshold 0; or use "
            "request_body_mode: BUFFERED, where the body stays in Envoy until the picker has answered",
            (server.node.at("health_checks"), [HEALTH_CHECK]),
        )


def open_in_panic(question: Question) -> Iterator[Finding]:
    server = question.server
    if not (server and question.is_duplex and question.fails_open and server.checks):
        return
    if percent := server.panic_percent:
        threshold = server.node.at("common_lb_config", "healthy_panic_threshold")
        yield found(
            threshold or server.checks[0],
            f"below {percent:g} % healthy endpoints the cluster {server.name!r} is in panic and uses the dead ones too: when "
            "its last picker dies, requests with a body are sent to it and fail, though failure_mode_allow is set",
            "set common_lb_config.healthy_panic_threshold to {value: 0}",
            (threshold, {"value": 0}),
        )


def trailers_not_sent(question: Question) -> Iterator[Finding]:
    for direction in ("request", "response"):
        body, trailers = f"{direction}_body_mode", f"{direction}_trailer_mode"
        if question.mode(body) == "FULL_DUPLEX_STREAMED" and question.mode(trailers) != "SEND":
            modes = question.field("processing_mode")
            yield found(
                modes.at(trailers) or modes.at(body),
                f"{body} FULL_DUPLEX_STREAMED with {trailers} {question.mode(trailers)}: a {direction} that ends in trailers "
                "never ends for the picker. Envoy refuses this in a filter, and says nothing of it in a route",
                f"set {trailers}: SEND",
                (modes.at(trailers), "SEND"),
            )


def headers_not_sent(question: Question) -> Iterator[Finding]:
    if question.is_duplex and question.mode("request_header_mode") == "SKIP":
        node = question.field("processing_mode").at("request_header_mode")
        yield found(
            node,
            "the picker is sent the body (FULL_DUPLEX_STREAMED) but not the headers, and answers for the headers first, as the "
            "picker protocol has it: Envoy takes that for spurious, and the client gets a 500",
            "set request_header_mode: SEND",
            (node, "SEND"),
        )


def modes_without_effect(question: Question) -> Iterator[Finding]:
    override = question.field("allow_mode_override")
    if question.is_duplex and override.is_true:
        yield found(
            override,
            "allow_mode_override has no effect with FULL_DUPLEX_STREAMED: a picker that changes the mode is ignored",
            "leave it out",
            (override, UNSET),
        )
    observing = question.field("observability_mode")
    if question.is_duplex and observing.is_true:
        yield found(
            observing,
            "with observability_mode nobody waits for the picker's answers, and in FULL_DUPLEX_STREAMED it is sent no body: "
            "there is no pick",
            "leave it out; to try a picker beside another, mirror requests to it",
        )
    for which in ("request_body_mode", "response_body_mode"):
        if question.mode(which) == "GRPC":
            yield found(
                question.field("processing_mode").at(which),
                f"{which} GRPC is for gRPC messages: with anything else, such as JSON, requests hang",
                "use BUFFERED, or FULL_DUPLEX_STREAMED if the picker asks for it",
            )


def cut_with_the_picker(question: Question) -> Iterator[Finding]:
    node = question.field("processing_mode").at("response_body_mode")
    if question.mode("response_body_mode") == "FULL_DUPLEX_STREAMED":
        yield found(
            node,
            "responses pass through the picker (FULL_DUPLEX_STREAMED): when it is restarted, or its cluster is changed, every "
            "stream under way is cut, whatever failure_mode_allow says",
            "use response_body_mode: NONE unless the picker has to read responses; it learns from the stream's end "
            "(response_trailer_mode: SEND) and from access log records when a request ends",
        )
    elif question.mode("response_body_mode") == "STREAMED" and not question.fails_open:
        yield found(
            node,
            "responses pass through the picker (STREAMED), and nothing goes on without it: when it is restarted, every stream "
            "under way is cut",
            "use response_body_mode: NONE unless the picker has to read responses; or failure_mode_allow: true, with which "
            "streams go on",
        )


def error_without_a_status(question: Question) -> Iterator[Finding]:
    if not question.fails_open and not question.field("status_on_error"):
        yield found(
            question.filter.node,
            f"without status_on_error a request that {question.server_name.text!r} does not answer ends in 500, which clients "
            "and dashboards take for an error of the model server",
            "set status_on_error: {code: ServiceUnavailable}; a route cannot override it",
            (question.filter.config.at("status_on_error"), {"code": "ServiceUnavailable"}),
        )


RULES = (
    Rule(
        "E01",
        "Failing open to a cluster that cannot go anywhere by itself",
        "Only a cluster that knows its endpoints can choose one. Seen on 1.40.0 with a picker that is down and "
        "failure_mode_allow: ORIGINAL_DST answered every request 503 (POST 500 in FULL_DUPLEX_STREAMED); override_host went by "
        "its fallback policy.",
        of_pool_routes(open_to_nowhere),
        "Envoy documentation, original destination load balancing",
    ),
    Rule(
        "E02",
        "Failing open that does not work for requests with a body",
        "In FULL_DUPLEX_STREAMED Envoy can go on without a picker only until the first part of the body is sent. With a "
        "refused connection and failure_mode_allow a GET was answered 200 and a POST 500; with a health check, both 200. Seen "
        f"on {VERSIONS}.",
        of_questions(open_without_knowing),
        "envoyproxy/envoy#41276",
    ),
    Rule(
        "E03",
        "Failing open that panic mode prevents",
        "Envoy uses dead endpoints too when fewer than 50 % are alive, unless the threshold is 0. So the last picker that dies "
        f"is still asked, and requests with a body fail as if there were no health check. Seen on {VERSIONS}.",
        of_questions(open_in_panic),
        "Envoy documentation, load balancing, panic threshold",
    ),
    Rule(
        "E04",
        "FULL_DUPLEX_STREAMED without trailers",
        "Envoy refuses it in the filter's own processing_mode, and takes it without a word in a route's override.",
        of_questions(trailers_not_sent),
        "Envoy API, ext_proc ProcessingMode.BodySendMode",
    ),
    Rule(
        "E05",
        "FULL_DUPLEX_STREAMED without headers",
        "Seen on 1.36.2 to 1.40.0: a picker that answers as the picker protocol demands ends as spurious_message, the client "
        "gets a 500.",
        of_questions(headers_not_sent),
        "Gateway API Inference Extension, endpoint picker protocol",
    ),
    Rule(
        "W06",
        "A mode of ext_proc that has no effect here, or the wrong one",
        "Seen on 1.40.0, all accepted by Envoy: FULL_DUPLEX_STREAMED with allow_mode_override (ignored), with "
        "observability_mode (the picker gets headers only), and the body mode GRPC on JSON (hangs).",
        of_questions(modes_without_effect),
        "Envoy API, ext_proc ExternalProcessor",
    ),
    Rule(
        "W18",
        "Streams that are cut when the picker is restarted",
        "Seen on 1.40.0: with responses in FULL_DUPLEX_STREAMED, killing the picker or changing its cluster cut every stream "
        "under way, also when failing open; with requests only, all survived, and with STREAMED those that fail open. 1.36.2 "
        "holds the picker's stream until the end: there, only BUFFERED requests that fail open survive.",
        of_questions(cut_with_the_picker),
        "Gateway API Inference Extension, endpoint picker protocol: this is what it demands",
    ),
    Rule(
        "W20",
        "An absent picker that looks like a broken model server",
        "Envoy answers 500 for ext_proc errors, with the response flags '-': nothing but the response code details tells them "
        "from errors behind it. status_on_error (since 1.36) makes it a 503; it does not apply to timeouts, which stay 504.",
        of_questions(error_without_a_status),
        "Envoy API, ext_proc ExternalProcessor.status_on_error",
    ),
)
