"""Profiles of endpoint pickers: what a kind of picker calls its metrics, beside what it lacks."""

from shunter.conformance.core.profile import Profile

__all__ = ["BODY_MODES", "DROP_REASON", "POOL_METRICS", "SERVED_ECHO", "TOKEN_METRICS", "PickerProfile"]

BODY_MODES = "body-modes"
"""The feature of pickers that answer in other modes than full duplex."""

DROP_REASON = "drop-reason"
"""The feature of pickers that name the reason of a refusal in a header, as llm-d's do since it is a project of its own."""

SERVED_ECHO = "served-echo"
"""The feature of pickers that can tell clients who served them, as GIE's conformance tests want it."""

POOL_METRICS = "pool-metrics"
"""The feature of pickers that expose averages of their pool."""

TOKEN_METRICS = "token-metrics"  # noqa: S105 – generated ones
"""The feature of pickers that count tokens as they read responses."""


class PickerProfile(Profile, frozen=True, kw_only=True):
    """One kind of picker. Families by the names that they have had: of several the first that is there counts.

    The defaults are those of llm-d's router, then of GIE 1.x, then of GIE 0.3.
    """

    requests: tuple[str, ...] = (
        "llm_d_epp_request_total",
        "inference_objective_request_total",
        "inference_model_request_total",
    )
    """Counter of the requests that it decided."""

    running: tuple[str, ...] = (
        "llm_d_epp_request_running",
        "inference_objective_running_requests",
        "inference_model_running_requests",
    )
    """Gauge of the requests that it has decided and that have not ended."""

    tokens: tuple[str, ...] = (
        "llm_d_epp_request_output_tokens_sum",
        "inference_objective_output_tokens_sum",
        "inference_model_output_tokens_sum",
    )
    """Sum of the generated tokens that responses told of."""
