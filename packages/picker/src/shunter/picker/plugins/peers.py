"""Where an engine can fetch what it has not cached: the peer that has most of the prompt."""

from collections.abc import Sequence
from typing import Annotated, ClassVar

from msgspec import Meta

from shunter.picker.core.kinds import Header, Verdict
from shunter.picker.core.request import Request
from shunter.picker.plugins.catalogue import Kind, Plugin, Stability, register

__all__ = ["P2pSource"]

# Its name, and the one it had before: which of them a sidecar reads depends on its release.
SOURCE = ("x-llm-d-kv-cache-source-host-port", "x-kv-cache-source-host-port")


@register("p2p-source-producer", Kind.HOOK, stability=Stability.ALPHA)
class P2pSource(Plugin, frozen=True):
    """Names in the request's header x-kv-cache-source-host-port who has more of the prompt cached than who computes it.

    Named is the candidate with the largest share, if that is at least minCachedTokenDelta tokens more than the one has who
    computes the prompt: the choice of the profile prefillProfileName (empty: the handler's profile for that) if that runs and
    leaves somebody, else the endpoint chosen. Below that, to transfer the blocks takes longer than to compute them. Whether the
    engine fetches anything is its own affair (with llm-d's sidecar it does under ``--enable-p2p-pull``). Of use with
    ``precise-prefix-cache-producer``: a peer that has evicted what it was once sent is asked in vain.

    Source: llm-d's plugin of that name. Its default is 1, and its guides set 2048.
    """

    # Computing a thousand tokens takes a large GPU some 60 ms (16,000 tokens a second), fetching their blocks, 130 MB of an 8B
    # model, 10 ms at 100 Gbit/s: worth it, and not much earlier.
    min_cached_token_delta: Annotated[int, Meta(ge=1)] = 1024
    prefill_profile_name: str = ""
    prefix_match_info_producer_name: str = ""  # empty: the one there is

    reads_prefix: ClassVar[bool] = True

    def picked(self, request: Request, verdict: Verdict) -> tuple[Sequence[Header], Sequence[Header]]:
        """Name the peer, if there is one."""
        match = request.match(self.prefix_match_info_producer_name)
        share = match.share
        prefill = verdict.others.get(self.prefill_profile_name or verdict.prefill)
        decision = prefill if prefill is not None and prefill.chosen else verdict.decision
        if not share or not decision.chosen:
            return (), ()
        chosen = decision.candidates[decision.chosen[0]]
        peers = (*decision.candidates, *verdict.decision.candidates)
        best = max(peers, key=lambda each: share.get(each.slot, 0.0))
        more = share.get(best.slot, 0.0) - share.get(chosen.slot, 0.0)
        if more * match.tokens < self.min_cached_token_delta:
            return (), ()
        return [(header, best.authority) for header in SOURCE], ()
