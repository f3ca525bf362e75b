"""What a request costs each endpoint that has a part in it: one that does everything, or one for each stage."""

from shunter.picker.core.kinds import Verdict
from shunter.picker.core.ledger import Booking
from shunter.picker.core.request import Request

__all__ = ["book"]


def book(request: Request, verdict: Verdict, decode_tokens: int) -> Booking:
    """Return the booking of whoever serves the request, with those who do a stage before as its companions.

    The prompt's tokens are to be computed by the choice of profile ``verdict.prefill``, if that ran and is somebody else; any
    other stage is just a request more. ``decode_tokens`` is how long the answer will probably be.
    """
    decision = verdict.decision
    first = decision.candidates[decision.chosen[0]]
    prefill_tokens = _uncached(request, first.slot)
    companions: tuple[Booking, ...] = ()
    for name, each in verdict.others.items():
        endpoint = each.candidates[each.chosen[0]] if each.chosen else first
        if endpoint.slot == first.slot:
            continue
        part = Booking(endpoint.slot, endpoint.incarnation, request.at_ns)
        if name == verdict.prefill:
            prefill_tokens = 0
            prompt, uncached = request.prompt_tokens, _uncached(request, endpoint.slot)
            part = Booking(endpoint.slot, endpoint.incarnation, request.at_ns, prompt, (), uncached)
        companions += (part,)
    return Booking(
        first.slot,
        first.incarnation,
        request.at_ns,
        request.prompt_tokens,
        request.prefix.hashes,
        prefill_tokens,
        decode_tokens,
        companions,
    )


def _uncached(request: Request, slot: int) -> int:
    """Return how many tokens of its prompt an endpoint has to compute."""
    prompt, prefix = request.prompt_tokens, request.prefix
    share = prefix.share.get(slot)
    # Of images a prompt has many more bytes than tokens.
    return max(0, prompt - int(share * min(prefix.tokens, prompt))) if share else prompt
