"""What Envoy itself answers, in the form that OpenAI's client libraries expect.

Without this a client that parses errors as JSON meets a line of plain text whenever no engine could be reached. What the
picker refuses is left as the picker worded it: such answers have none of these response flags.
"""

from shunter.envoyconf.core.intent import Security
from shunter.envoyconf.core.protojson import Resource, extension

__all__ = ["local_reply"]

# Envoy's response flags of answers it makes up because something behind it went wrong: no healthy endpoint, connection
# failure or termination, overflow, retry limit, remote reset, timeouts of request and stream, no route or cluster.
FAILURES = ("UH", "UF", "UC", "UO", "UR", "URX", "UT", "SI", "LR", "NR", "NC")

# Where routes go by the model, of a request whose model has none.
NO_POOL = "NC"

# Whom api_key_auth and jwt_authn do not let in, told apart by status: 401 without a valid key or token, 403 with one that is
# for another audience.
REFUSED = "response.code_details in ['missing_api_key', 'unknown_api_key'] || response.code_details.startsWith('jwt_authn')"
REFUSALS = {401: ("authentication_error", "invalid_api_key"), 403: ("permission_error", "access_denied")}

# A local rate limit's answer; its flag RL is set too late to be seen here.
LIMITED = "response.code_details == 'local_rate_limited'"

# A request that goes nowhere since its picker could not be asked has no flag either, and Envoy's answer to it no words.
NO_PICKER = "response.code_details.startsWith('ext_proc_error')"

# Too large a body has no flag: refused while it is buffered for the picker, or given up when it should be sent again.
TOO_LARGE = (413, 507)


def local_reply(*, by_model: bool, security: Security | None = None) -> Resource:
    """Return the mappers of local replies; the ``code`` of a failure is its response flag, as in the access log.

    ``by_model``: do routes go by the model.
    """
    security = security or Security()
    too_large = _error("invalid_request_error", "payload_too_large")
    failure = _error("server_error", "%RESPONSE_FLAGS%")
    no_picker = _error(
        "server_error", "no_endpoint_picker", "the endpoint picker did not answer, and nothing is sent on without it"
    )
    no_pool = _error("invalid_request_error", "model_not_found", "no pool serves this model at this path")
    limited = _error("rate_limit_error", "rate_limit_exceeded", "too many requests; try again later")
    return {
        "mappers": [
            *({"filter": _status(status), "body_format_override": too_large} for status in TOO_LARGE),
            *(_refusals() if security.knows_clients else ()),
            *([{"filter": _expression(LIMITED), "body_format_override": limited}] if security.rate_limits else ()),
            {"filter": _expression(NO_PICKER), "body_format_override": no_picker},
            *([{"filter": _flags(NO_POOL), "body_format_override": no_pool}] if by_model else ()),
            {"filter": _flags(*FAILURES), "body_format_override": failure},
        ]
    }


def _refusals() -> list[Resource]:
    return [
        {
            "filter": {"and_filter": {"filters": [_status(status), _expression(REFUSED)]}},
            "body_format_override": _error(*words),
        }
        for status, words in REFUSALS.items()
    ]


def _expression(expression: str) -> Resource:
    return {
        "extension_filter": extension(
            "envoy.access_loggers.extension_filters.cel",
            "extensions.access_loggers.filters.cel.v3.ExpressionFilter",
            expression=expression,
        )
    }


def _flags(*flags: str) -> Resource:
    return {"response_flag_filter": {"flags": list(flags)}}


def _status(status: int) -> Resource:
    comparison = {"op": "EQ", "value": {"default_value": status, "runtime_key": f"shunter.local_reply.{status}"}}
    return {"status_code_filter": {"comparison": comparison}}


def _error(kind: str, code: str, message: str = "%LOCAL_REPLY_BODY%") -> Resource:
    return {"json_format": {"error": {"message": message, "type": kind, "param": None, "code": code}}}
