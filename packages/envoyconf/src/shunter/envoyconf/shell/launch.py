"""An Envoy in the foreground: what is to end us ends it, and its exit code is ours.

It cannot take our place by exec: its configuration is in a file that somebody has to remove, since Envoy takes none from memory
(it refuses paths below /proc), and one among the arguments is limited to 128 KiB and there for all to see, with its keys.
"""

import errno
import signal
import socket
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from shunter.envoyconf.core.authority import join_authority
from shunter.envoyconf.core.protojson import Resource
from shunter.envoyconf.errors import EnvoyMissingError, IntentError

__all__ = ["check_places", "launch"]

# What terminals and supervisors send to end a program.
FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def check_places(bootstrap: Resource) -> None:
    """Raise IntentError if somebody listens already where a listener is to be.

    Envoy would not mind: it shares the port (SO_REUSEPORT), with an Envoy that was forgotten, too, and half of the requests are
    answered by the other one.
    """
    for listener in bootstrap.get("static_resources", {}).get("listeners", ()):
        place: Resource | None = listener.get("address", {}).get("socket_address")
        if not place or not place["port_value"]:
            continue
        host, port = place["address"], place["port_value"]
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections that linger are nobody who listens
            try:
                probe.bind((host, port))
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    raise IntentError(
                        f"listener {listener['name']}: somebody listens on {join_authority(host, port)} already, and would "
                        "share requests with this Envoy; stop that, or give listeners another port"
                    ) from None


def launch(config: str, binary: Path, arguments: Sequence[str] = ()) -> int:
    """Run an Envoy until it ends and return its exit code; one that a signal ended has 128 and more, as shells count.

    Nothing hands over to such an Envoy, so hot restart is off, and several can run side by side.
    """
    with tempfile.TemporaryDirectory(prefix="shunter-envoyconf-") as scratch:
        path = Path(scratch) / "bootstrap.yaml"
        path.write_text(config)
        command = [str(binary), "-c", str(path), "--disable-hot-restart", *arguments]
        try:
            # The operator's own binary and arguments. In a process group of its own, so that Ctrl-C comes once: through us.
            envoy = subprocess.Popen(command, process_group=0)  # noqa: S603 # as above
        except OSError as error:
            raise EnvoyMissingError(f"{binary} cannot be run: {error.strerror}") from error

        def forward(number: int, _: FrameType | None) -> None:
            envoy.send_signal(number)

        before = {number: signal.signal(number, forward) for number in FORWARDED}
        try:
            code = envoy.wait()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            if envoy.poll() is None:
                envoy.kill()
                envoy.wait()
    return code if code >= 0 else 128 - code
