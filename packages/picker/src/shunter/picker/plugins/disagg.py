"""Profile handlers for requests whose stages, encode, prefill and decode, are done by different endpoints.

The request goes to the endpoint that decodes. Who does the stages before is told in headers to the sidecar there, which asks
them and then has its own engine fetch what they computed:

========================= =========================================================================================
x-prefiller-host-port     who computes the prompt: ``ip:port``, best first, the others in case it fails
x-encoder-hosts-ports     who encode images, videos and recordings
x-data-parallel-host-port which data-parallel rank is meant
========================= =========================================================================================

The first two are also told by their newer names, x-llm-d-prefiller-host-port and x-llm-d-encoder-hosts-ports: which of them a
sidecar reads depends on its release. A client cannot set any: what it sends under these names never reaches an engine.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import Meta

from shunter.picker.core.kinds import Decision, Header, Setting
from shunter.picker.core.request import Request
from shunter.picker.plugins.catalogue import Kind, Plugin, Reference, register
from shunter.picker.plugins.deciders import Decider
from shunter.snapshot import Endpoint

__all__ = ["DataParallel", "Disaggregated", "HeadersHandler", "PrefillDecode", "PrefillHeaderHandler", "Stages"]

PREFILLER = ("x-llm-d-prefiller-host-port", "x-prefiller-host-port")
ENCODERS = ("x-llm-d-encoder-hosts-ports", "x-encoder-hosts-ports")
RANK = "x-data-parallel-host-port"

Port = Annotated[int, Meta(ge=0, le=65_535)]


class Stages(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Something for each stage: the name of its profile."""

    decode: str = "decode"
    prefill: str = "prefill"
    encode: str = "encode"


class Deciders(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who decides whether a stage runs; empty: it never does."""

    prefill: str = ""
    encode: str = ""


@register("disagg-profile-handler", Kind.HANDLER)
class Disaggregated(Plugin, frozen=True):
    """Chooses one endpoint that decodes and, where deciders say so, others that compute the prompt and encode its media.

    With stageOrder decode-first the decoder is chosen first, and deciders.prefill knows how much of the prompt it has cached.
    With prefill-first every prompt is computed by an endpoint of profile prefill, and the decoder is chosen last; a decider of
    prefill has nothing to decide there. Whoever is chosen first is the peer of the topology plugins in later profiles. If
    nobody is left to prefill or to encode the decoder does it itself; if nobody is left to decode the request is refused (429).
    The reference's releases since September 2026 refuse it, too, if nobody is left to prefill: here, a slow answer is better
    than none.
    deciderPluginName is the former name of deciders.prefill. Source: llm-d's plugin of that name.
    """

    stages: Stages = msgspec.field(default=Stages(), name="profiles")
    deciders: Deciders = Deciders()
    stage_order: Literal["decode-first", "prefill-first"] = "decode-first"
    decider_plugin_name: str = ""

    references: ClassVar[tuple[Reference, ...]] = (
        Reference("deciders.prefill", Kind.DECIDER),
        Reference("deciders.encode", Kind.DECIDER),
        Reference("deciderPluginName", Kind.DECIDER),
    )

    def __post_init__(self) -> None:
        """Refuse who contradicts himself."""
        if self.deciders.prefill and self.decider_plugin_name:
            raise ValueError("deciderPluginName is the former name of deciders.prefill; keep one")
        if self.stage_order == "prefill-first" and self.prefill_decider:
            raise ValueError("with stageOrder prefill-first every prompt is prefilled; remove deciders.prefill")

    @property
    def prefill_decider(self) -> str:
        """Who decides whether the prompt is computed elsewhere."""
        return self.deciders.prefill or self.decider_plugin_name

    @property
    def profile_names(self) -> Sequence[str]:
        """The profiles of the stages that may run."""
        names = [self.stages.decode]
        if self.prefill_decider or self.stage_order == "prefill-first":
            names.append(self.stages.prefill)
        return [*names, self.stages.encode] if self.deciders.encode else names

    def start(self, setting: Setting) -> "ByStage":
        """Return the handler at work."""
        named = {self.stages.encode: self.deciders.encode, self.stages.prefill: self.prefill_decider}
        deciders: dict[str, Any] = {stage: setting.find(name) for stage, name in named.items() if name}
        return ByStage(self.stages, deciders, prefill_first=self.stage_order == "prefill-first")


class ByStage:
    """A handler that knows its deciders."""

    def __init__(
        self, stages: Stages, deciders: Mapping[str, Decider], *, prefill_first: bool = False, ranks: bool = False
    ) -> None:
        """``deciders`` are those of the profiles that are optional; with ``ranks`` the header names the decoder, too."""
        self.prefill = stages.prefill
        """The profile whose choice computes the prompt."""
        self._stages = stages
        self._deciders = deciders
        self._ranks = ranks
        self._first = stages.prefill if prefill_first else stages.decode

    def profiles(self, request: Request, decided: Mapping[str, Decision]) -> Sequence[str]:
        """Return the first stage, then those that are wanted, then decode, if it is still to come."""
        first = decided.get(self._first)
        if first is None:
            return (self._first,)
        decode = self._stages.decode
        if decode in decided and decode != self._first:
            return ()
        endpoint = _chosen(decided.get(decode))
        if decode == self._first and endpoint is None:
            return ()
        wanted = [name for name, each in self._deciders.items() if name not in decided and each.wants(request, endpoint)]
        return wanted if wanted or decode in decided else (decode,)

    def settle(self, request: Request, decided: Mapping[str, Decision]) -> tuple[str, Sequence[Header]]:  # noqa: ARG002
        """Return the decoding profile, and in headers who does the stages before, unless that is the decoder."""
        stages = self._stages
        decoder = _chosen(decided.get(stages.decode))
        if decoder is None:
            return "", ()
        headers = [(RANK, decoder.authority)] if self._ranks else []
        for spellings, stage in ((PREFILLER, stages.prefill), (ENCODERS, stages.encode)):
            if (names := _addresses(decided.get(stage))) and names[0] != decoder.authority:
                headers += [(header, ",".join(names)) for header in spellings]
        return stages.decode, headers


@register("pd-profile-handler", Kind.HANDLER, replacement="disagg-profile-handler")
class PrefillDecode(Plugin, frozen=True):
    """The former handler of two stages, decode-first; of disagg-profile-handler deciders.prefill is deciderPluginName here.

    With a primaryPort the header x-data-parallel-host-port names the rank; the request goes to the rank itself all the same.
    Source: llm-d's plugin of that name.
    """

    decode_profile: str = "decode"
    prefill_profile: str = "prefill"
    decider_plugin_name: str = ""
    prefix_plugin_name: str = ""
    prefix_plugin_type: str = ""
    primary_port: Port = 0
    prefix_match_info_producer_name: str = ""

    references: ClassVar[tuple[Reference, ...]] = (
        Reference("deciderPluginName", Kind.DECIDER, implied="prefix-based-pd-decider"),
    )

    @property
    def profile_names(self) -> Sequence[str]:
        """Both."""
        return (self.decode_profile, self.prefill_profile)

    @property
    def stages(self) -> Stages:
        """The profile of each."""
        return Stages(self.decode_profile, self.prefill_profile)

    def start(self, setting: Setting) -> ByStage:
        """Return the handler at work."""
        decider: Any = setting.find(self.decider_plugin_name)
        return ByStage(self.stages, {self.prefill_profile: decider}, ranks=bool(self.primary_port))


@register("data-parallel-profile-handler", Kind.HANDLER, replacement="an InferencePool with a target port for each rank")
class DataParallel(Plugin, frozen=True):
    """Runs the first profile, and names the data-parallel rank that it chose in the header x-data-parallel-host-port.

    The request goes to the port of that rank: every rank is an endpoint. targetPort is the former name of primaryPort; neither
    is needed for that. Source: llm-d's plugin of that name.
    """

    primary_port: Port = 8000
    target_port: Port = 0

    def start(self, setting: Setting) -> ByStage:
        """Return the handler at work."""
        return ByStage(Stages(decode=setting.profiles[0]), {}, ranks=True)


@register("disagg-headers-handler", Kind.HOOK, replacement="disagg-profile-handler, which sets the headers itself")
class HeadersHandler(Plugin, frozen=True):
    """Set the headers where the handler did not; here it always does."""

    prefill_profile: str = "prefill"
    encode_profile: str = "encode"


@register("prefill-header-handler", Kind.HOOK, replacement="disagg-profile-handler, which sets the headers itself")
class PrefillHeaderHandler(Plugin, frozen=True):
    """Set the header where the handler did not; here it always does."""

    prefill_profile: str = "prefill"


def _chosen(decision: Decision | None) -> Endpoint | None:
    """Return whom a profile chose, if it ran and somebody was left."""
    return decision.candidates[decision.chosen[0]] if decision is not None and decision.chosen else None


def _addresses(decision: Decision | None) -> list[str]:
    return [decision.candidates[at].authority for at in decision.chosen] if decision is not None else []
