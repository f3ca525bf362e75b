"""The lab's server as it is by itself: vLLM's names, and none of vLLM's defects."""

import msgspec

from shunter.conformance.sections.servers.profiles import vllm

__all__ = ["PROFILE"]

PROFILE = msgspec.structs.replace(vllm.PROFILE, name="lab", owned_by="shunter-lab", known_failures=())
