"""The kinds of endpoint pickers that the exam knows; the last is for all others."""

from shunter.conformance.core.profile import KnownFailure, named
from shunter.conformance.sections.pickers.profile import BODY_MODES, DROP_REASON, TOKEN_METRICS, PickerProfile

__all__ = ["GENERIC", "PROFILES", "find_profile"]

SHUNTER = PickerProfile(
    name="shunter",
    requests=("shunter_picker_picks_total",),
    running=("shunter_picker_in_flight_requests",),
    lacks={TOKEN_METRICS: "tokens come with the gateway's records of requests (--collector-port), which only its Envoys write"},
)

SEEN = "seen on the picker of gateway-api-inference-extension 1.5.0"
READ = "read in the source of llm-d-router in August 2026, and seen on its ancestor, the picker of GIE 1.5.0"

GO_LACKS = {BODY_MODES: "the Go picker knows no body mode but FULL_DUPLEX_STREAMED"}


def _go_failures(reference: str) -> tuple[KnownFailure, ...]:
    return (
        KnownFailure(
            "ep.stream.trailers",
            "request trailers are ignored, so that a body which they end is never complete, and never picked for",
            reference,
        ),
        KnownFailure("ep.subset.port", "the hint is compared by host alone", reference),
        KnownFailure("ep.subset.first-message", "the hint is read beside the last piece of the body", reference),
    )


LLM_D_ROUTER = PickerProfile(name="llm-d-router", lacks=GO_LACKS, known_failures=_go_failures(READ))

GIE_EPP = PickerProfile(
    name="gie-epp",
    lacks=GO_LACKS | {DROP_REASON: "the header came with llm-d's router"},
    known_failures=_go_failures(SEEN),
)

GENERIC = PickerProfile(name="generic")

PROFILES: tuple[PickerProfile, ...] = (SHUNTER, LLM_D_ROUTER, GIE_EPP, GENERIC)


def find_profile(name: str) -> PickerProfile:
    """Look a profile up by name."""
    return named(PROFILES, name)
