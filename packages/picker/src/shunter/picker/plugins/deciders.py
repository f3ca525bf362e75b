"""Deciders: does a request gain from a stage of its own on another endpoint, its prompt's or its media's?

A decider answers ``wants(request, endpoint)``: the endpoint is the one that would do the stage itself otherwise.
"""

from typing import Annotated, ClassVar, Protocol

from msgspec import Meta

from shunter.picker.core.judgement import Refusal
from shunter.picker.core.kinds import Verdict
from shunter.picker.core.request import Request
from shunter.picker.plugins.catalogue import Kind, Plugin, register
from shunter.snapshot import Endpoint

__all__ = ["AlwaysPrefill", "Decider", "EncodeMedia", "PrefillUncached"]

Count = Annotated[int, Meta(ge=0)]

MISS = Refusal(412, "PreconditionFailed", "no decode worker has the requested KV cache")


class Decider(Protocol):
    """Says whether a stage is worth its transfer."""

    def wants(self, request: Request, endpoint: Endpoint | None) -> bool:
        """Return it; None: nobody is chosen yet."""
        ...


@register("always-disagg-pd-decider", Kind.DECIDER)
class AlwaysPrefill(Plugin, frozen=True):
    """Every prompt is computed by an endpoint of its own."""

    def wants(self, request: Request, endpoint: Endpoint | None) -> bool:  # noqa: ARG002  it is always worth it
        """Return True."""
        return True


@register("prefix-based-pd-decider", Kind.DECIDER)
class PrefillUncached(Plugin, frozen=True):
    """Long prompts of which the decoding endpoint has not cached much are computed by another one.

    That is: of at least promptTokens tokens, and at least nonCachedTokens of them not cached, in no tier of its memory: to load
    a block from a slower one is still less work than to compute it. nonCachedTokens 0 is never.
    A coordinator that tries to decode first says so in the header ``Prefer: if-available`` (RFC 7240): its request is refused
    with 412 where the prompt would better be computed elsewhere. For this the plugin need only be declared, whatever handler
    there is. Source: llm-d's plugin of that name.
    """

    non_cached_tokens: Count = 0
    prompt_tokens: Count = 0
    prefix_match_info_producer_name: str = ""  # empty: the one there is

    reads_prefix: ClassVar[bool] = True

    def wants(self, request: Request, endpoint: Endpoint | None) -> bool:
        """Return whether enough of the prompt is new to the endpoint."""
        least, prompt = self.non_cached_tokens, request.prompt_tokens
        if not least or prompt < max(least, self.prompt_tokens):
            return False
        match = request.match(self.prefix_match_info_producer_name)
        share = 0.0
        if endpoint is not None:
            share = match.cached.get(endpoint.slot) or match.share.get(endpoint.slot, 0.0)
        return prompt - share * min(match.tokens, prompt) >= least

    def confirm(self, request: Request, verdict: Verdict) -> Refusal | None:
        """Refuse to decode what would have to be computed first, if asked to."""
        preferences = request.headers.get("prefer")
        if preferences is None or not is_conditional(preferences):
            return None
        decision = verdict.decision
        return MISS if self.wants(request, decision.candidates[decision.chosen[0]]) else None


@register("always-disagg-multimodal-decider", Kind.DECIDER)
class EncodeMedia(Plugin, frozen=True):
    """Whatever has an image, a video or a recording in it is encoded by an endpoint of its own."""

    def wants(self, request: Request, endpoint: Endpoint | None) -> bool:  # noqa: ARG002  the request alone decides
        """Return whether there is anything to encode."""
        return bool(request.media)


def is_conditional(preferences: str) -> bool:
    """Tell whether ``if-available`` is among preferences: a list, each with parameters or without (RFC 7240)."""
    names = (each.partition(";")[0].partition("=")[0] for each in preferences.split(","))
    return any(name.strip().lower() == "if-available" for name in names)
