"""A real llama.cpp server for the length of a test: `llamacpp_server` starts one on a free port and ends it."""

import select
import subprocess
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

from shunter.stack.llamacpp.gguf import write_model

__all__ = ["llamacpp_server"]

# A server is ready in 0.2 s on an idle machine; one that runs several test suites at once can be a hundred times slower.
START_DEADLINE_S = 30.0
# SIGTERM ends the process at once.
STOP_DEADLINE_S = 10.0
LOG_TAIL_BYTES = 4096


@contextmanager
def llamacpp_server(directory: Path, *, model: str = "tiny", slots: int = 4, context_tokens: int = 8192) -> Generator[str]:
    """Yield the base URL of a server that answers; the model's file is kept in `directory`, for any number of servers.

    An error inside the block carries the end of the server's log as a note; AssertionError if the server does not come up.
    """
    command = [sys.executable, "-m", "shunter.stack.llamacpp", f"--gguf={write_model(directory)}", f"--model-name={model}"]
    command += [f"--slots={slots}", f"--ctx={context_tokens}"]
    with (
        tempfile.TemporaryFile() as log,
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log) as server,  # noqa: S603 - our own module
    ):
        try:
            yield _wait_for_url(server)
        except BaseException as error:
            error.add_note(f"end of the llama.cpp server's log:\n{_tail(log)}")
            raise
        finally:
            server.terminate()
            try:
                server.wait(STOP_DEADLINE_S)
            except subprocess.TimeoutExpired:
                server.kill()
                raise


def _wait_for_url(server: subprocess.Popen[bytes]) -> str:
    stdout = cast("IO[bytes]", server.stdout)  # it was asked for
    readable, _, _ = select.select([stdout], [], [], START_DEADLINE_S)
    line = stdout.readline() if readable else b""
    if not line:
        raise AssertionError("the llama.cpp server did not come up")
    return line.decode().removeprefix("listening on ").rstrip()


def _tail(log: IO[bytes]) -> str:
    log.seek(max(0, log.seek(0, 2) - LOG_TAIL_BYTES))
    return log.read().decode(errors="replace")
