"""How an Envoy gets its configuration: all at once, from files that it watches, or from our control plane."""

import contextlib
import tempfile
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

from shunter.envoyconf import Intent, bootstrap
from shunter.envoyconf.core.envoy.dynamic import divide
from shunter.envoyconf.core.envoy.remote import from_control_plane, remote_bootstrap
from shunter.envoyconf.core.output import Settings
from shunter.envoyconf.core.protojson import Resource
from shunter.envoyconf.core.schema import envoy_schema
from shunter.envoyconf.core.targets import Target
from shunter.envoyconf.core.versions import Version
from shunter.envoyconf.core.xds.files import make_files
from shunter.envoyconf.shell.ads import Server
from shunter.envoyconf.shell.directory import Directory

__all__ = ["delivered"]


@contextlib.asynccontextmanager
async def delivered(target: Target, make: Callable[..., Intent], version: Version) -> AsyncGenerator[Resource]:
    """Yield what an Envoy is started with, while the rest is there; ``make`` is given fields of the intent's."""
    if target is Target.ENVOY_STATIC:
        yield bootstrap(make(), Settings(envoy_version=version))
    elif target is Target.ENVOY_FS:
        with tempfile.TemporaryDirectory(prefix="shunter-matrix-") as name:
            directory = Directory(Path(name))
            output = make_files(make(), Settings(envoy_version=version, directory=str(directory.place)))
            await directory.update(output)
            yield output.artefacts[0].documents[0]
    else:
        server, settings = Server(envoy_schema(), lambda: 0.0), Settings(envoy_version=version)
        intent = make(controlPlane={"addresses": [f"127.0.0.1:{await server.start('127.0.0.1', 0)}"]})
        try:
            await server.replace(divide(intent, settings, from_control_plane))
            yield remote_bootstrap(intent, settings)
        finally:
            await server.stop()
