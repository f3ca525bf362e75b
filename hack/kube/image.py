"""Container images of what is installed here: our packages, their dependencies, this Python and the libraries they load.

Nothing is fetched and no daemon is asked: an image is one layer in an archive as `docker save` writes it, which `docker load`
and `ctr images import` both read. Files keep the paths they have here, so that a Python from anywhere works as it does here.
"""

import hashlib
import importlib.metadata
import io
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

__all__ = ["PYTHON", "write_image"]

PYTHON = Path(sys.executable).resolve()

# What a server never imports, and most of what an installed Python weighs.
LEFT_OUT = {
    "__pycache__",
    "site-packages",
    "dist-packages",
    "test",
    "tests",
    "idlelib",
    "tkinter",
    "turtledemo",
    "ensurepip",
    "lib2to3",
}

SITE = "app"
PACKAGES = Path(__file__).parents[2] / "packages"


def write_image(
    path: Path,
    name: str,
    packages: Sequence[str] = (),
    *,
    tools: Iterable[tuple[str, Path]] = (),
    command: Sequence[str] = ("sh",),
) -> None:
    """Write an image that has these packages of ours (`shunter-lab`), their scripts, a shell and further programs."""
    shell = [("bin/sh", Path("/bin/sh")), ("bin/cat", Path(shutil.which("cat") or "/bin/cat"))]
    files = (dict(_python()) if packages else {}) | {f"usr/local/bin/{tool}": source for tool, source in tools} | dict(shell)
    scripts: dict[str, bytes] = {}
    for distribution in _closure(packages):
        files |= dict(_installed(distribution))
        for script in distribution.entry_points.select(group="console_scripts"):
            module, _, function = script.value.partition(":")
            code = f"#!{PYTHON}\nimport sys\nfrom {module} import {function}\nsys.exit({function}())\n"
            scripts[f"usr/local/bin/{script.name}"] = code.encode()
    files |= dict(_libraries(files.values()))
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as archive:
        _add(archive, "tmp", None, 0o1777)
        _add(archive, "etc/passwd", b"root:x:0:0:root:/:/bin/sh\nnonroot:x:65532:65532:nonroot:/:/bin/sh\n")
        for target, content in scripts.items():
            _add(archive, target, content, 0o755)
        for target, source in files.items():
            _add(archive, target, source.read_bytes(), source.stat().st_mode & 0o777 | 0o444)
    _save(path, name, layer.getvalue(), command)


def _save(path: Path, name: str, layer: bytes, command: Sequence[str]) -> None:
    environment = ["PATH=/usr/local/bin:/usr/bin:/bin", f"PYTHONPATH=/{SITE}", "PYTHONUNBUFFERED=1", "HOME=/tmp"]
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Env": environment, "WorkingDir": "/", "Cmd": [*command]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }
    described = json.dumps(config).encode()
    config_name = f"{hashlib.sha256(described).hexdigest()}.json"
    manifest = [{"Config": config_name, "RepoTags": [name], "Layers": ["layer.tar"]}]
    with tarfile.open(path, "w") as archive:
        _add(archive, config_name, described)
        _add(archive, "layer.tar", layer)
        _add(archive, "manifest.json", json.dumps(manifest).encode())


def _add(archive: tarfile.TarFile, name: str, content: bytes | None, mode: int = 0o644) -> None:
    entry = tarfile.TarInfo(name)
    entry.mode = mode
    if content is None:
        entry.type = tarfile.DIRTYPE
        archive.addfile(entry)
    else:
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))


def _python() -> Iterator[tuple[str, Path]]:
    yield str(PYTHON).lstrip("/"), PYTHON
    for library in {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")}:
        for directory, inside, names in os.walk(library):
            inside[:] = [each for each in inside if each not in LEFT_OUT and not each.startswith("config-")]
            for name in names:
                if not name.startswith("_tkinter"):
                    yield f"{directory}/{name}".lstrip("/"), Path(directory, name)


def _closure(packages: Iterable[str]) -> list[importlib.metadata.Distribution]:
    """Return the packages and what they need, as far as it is installed: the rest is for other platforms."""
    found: dict[str, importlib.metadata.Distribution] = {}
    open_names = list(packages)
    while open_names:
        name = re.sub(r"[-_.]+", "-", open_names.pop()).lower()
        if name in found:
            continue
        try:
            found[name] = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        needs = [need for need in found[name].requires or () if "extra ==" not in need]
        open_names += [match[0] for need in needs if (match := re.match(r"[\w.-]+", need))]
    return list(found.values())


def _installed(distribution: importlib.metadata.Distribution) -> Iterator[tuple[str, Path]]:
    for file in distribution.files or ():
        path = Path(str(file.locate()))
        if ".." not in file.parts and path.suffix not in {".pth", ".pyc"} and path.is_file():
            yield f"{SITE}/{file}", path
    name = distribution.metadata["Name"]
    if name.startswith("shunter-"):  # installed editable: the files are in the workspace
        sources = PACKAGES / name.removeprefix("shunter-") / "src"
        for path in sources.rglob("*"):
            if path.is_file() and path.suffix != ".pyc":
                yield f"{SITE}/{path.relative_to(sources)}", path


def _libraries(files: Iterable[Path]) -> Iterator[tuple[str, Path]]:
    """Yield what the loader will look for, under the name it will look for."""
    binaries = [str(path) for path in files if _is_binary(path)]
    listed = subprocess.run(["ldd", *binaries], capture_output=True, text=True, check=False).stdout
    for found in {os.path.normpath(path) for path in re.findall(r"(/\S+) \(0x", listed)}:
        if not found.startswith(sysconfig.get_path("platlib")):  # a wheel's own, which it finds beside itself
            yield found.lstrip("/"), Path(found).resolve()


def _is_binary(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"
