"""Profile handlers that run one profile for each request."""

from collections.abc import Mapping, Sequence

from shunter.picker.core.kinds import Decision, Header, Setting
from shunter.picker.core.request import Request
from shunter.picker.plugins.catalogue import Kind, Plugin, Stability, register

__all__ = ["HeaderProfile"]


@register("header-profile-handler", Kind.HANDLER, stability=Stability.ALPHA)
class HeaderProfile(Plugin, frozen=True):
    """Runs the one profile that the request's header headerName names; without the header, defaultProfile.

    For callers that ask for each stage of a request by itself. If there is one profile only it always runs; a request that
    names a profile which does not exist is refused (429). Source: llm-d's plugin of that name.
    """

    header_name: str = "EPP-Profile"
    default_profile: str = "decode"

    def start(self, setting: Setting) -> "ByHeader":
        """Return the handler at work."""
        return ByHeader(self, setting.profiles)


class ByHeader:
    """A HeaderProfile that knows which profiles there are."""

    def __init__(self, parameters: HeaderProfile, names: Sequence[str]) -> None:
        """Keep nothing but these."""
        self._header = parameters.header_name.lower()
        self._default = parameters.default_profile
        self._names = names

    def profiles(self, request: Request, decided: Mapping[str, Decision]) -> Sequence[str]:
        """Return the profile to run, once."""
        if decided:
            return ()
        name = request.headers.get(self._header, "").strip() or self._default
        return self._names if len(self._names) == 1 else [each for each in self._names if each == name]

    def settle(self, request: Request, decided: Mapping[str, Decision]) -> tuple[str, Sequence[Header]]:  # noqa: ARG002
        """Return the profile that ran."""
        return next(iter(decided), ""), ()
