"""What holds for the tests of all packages.

No example of a property is judged by the time it takes: the machine may be busy. Hypothesis's phase "explain" is left out: it
traces every line of a failing test for minutes to say what a look at the smallest example says too.

A port that nobody has is none that a client is given a moment later: pytest-asyncio's fixtures know only the first half of it.

In a background job of a shell SIGINT is ignored, and by all that tests start there, unless somebody heeds it again.
"""

import signal
from collections.abc import Callable

import pytest
from hypothesis import Phase, settings

settings.register_profile("house", deadline=None, phases=[phase for phase in Phase if phase is not Phase.explain])
settings.load_profile("house")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def unused_tcp_port_factory() -> Callable[[], int]:
    from shunter.conformance.shell.ports import free_ports  # noqa: PLC0415 – only who asks for one pays for it

    return lambda: free_ports(1)[0]


@pytest.fixture
def unused_tcp_port(unused_tcp_port_factory: Callable[[], int]) -> int:
    return unused_tcp_port_factory()
