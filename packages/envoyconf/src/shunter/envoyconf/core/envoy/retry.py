"""What is tried again, and where: questions to a picker, and requests to a pool."""

from shunter.envoyconf.core.protojson import Resource, extension

__all__ = ["question_retries", "request_retries"]

# Load balancing gets three tries to find a host that has not been tried; it may not be there.
ELSEWHERE: Resource = {
    "retry_host_predicate": [
        extension(
            "envoy.retry_host_predicates.previous_hosts", "extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
        ),
    ],
    "host_selection_retry_max_attempts": 3,
}


def question_retries() -> Resource:
    """Return how a question is repeated whose picker worker died before it answered: to another worker.

    With this, workers killed under load cost no request in the profile lean, and 1 to 16 picks of two thousand. ``reset``
    covers questions that were in flight; without previous_hosts the retry meets the dead worker again. The back-off is
    short since a client waits.
    """
    return {
        "retry_on": "connect-failure,refused-stream,reset-before-request,reset,unavailable",
        "num_retries": 2,
        "retry_back_off": {"base_interval": "0.005s", "max_interval": "0.020s"},
        **ELSEWHERE,
    }


def request_retries(retries: int) -> Resource:
    """Return when a request is tried again on the picker's next choice, or behind the end of its list by load balancing.

    Only what no engine has begun is repeated: a generation costs seconds of a GPU and must not run twice. So connections
    that fail, streams that are refused, resets before the request was sent, and 503, by which engines say that they take no
    requests (llama.cpp while it loads a model, servers that drain). Not 429: a busy engine's answer is for the client, and
    the picker, which knows every queue, chose this engine as the least bad. Not 500: the prompt that breaks one engine breaks
    the next. Not a reset in the middle: nobody knows what was done.
    """
    return {
        "retry_on": "connect-failure,refused-stream,reset-before-request,retriable-status-codes",
        "retriable_status_codes": [503],
        "num_retries": retries,
        "retry_back_off": {"base_interval": "0.025s", "max_interval": "0.250s"},
        **ELSEWHERE,
    }
