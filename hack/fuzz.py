"""Fuzz every boundary that reads foreign bytes, for a bounded time, from a printed seed.

Each ``hack/fuzz_<name>.py`` offers ``target(data: bytes) -> None``, which raises only when a promise is broken, and ``CORPUS``,
inputs worth starting from. Inputs are mutated corpus entries: flipped bits, cut, repeated, spliced, salted with foreign words.
With ``--engine atheris`` they are libFuzzer's instead, led by what they reach in the code of the packages; atheris has to be
installed for that (``pip install atheris``: 35 MB, Linux, no wheel for every Python, so it is no requirement of the tests).
What it finds goes to ``hack/corpus/<name>.xz``. A broken promise is written to ``hack/corpus/<name>/``. Both become tests by
being committed (``hack/tests/test_corpus.py``).
"""

import argparse
import hashlib
import importlib.util
import lzma
import random
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

import msgspec

HERE = Path(__file__).resolve().parent
SECONDS = 60
MAX_BYTES = 1 << 16


def load(name):
    spec = importlib.util.spec_from_file_location(name, HERE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def targets():
    return sorted(path.stem for path in HERE.glob("fuzz_*.py"))


def mutate(dice, corpus):
    data = bytearray(dice.choice(corpus))
    for _ in range(dice.choice((0, 1, 1, 2, 4, 16))):
        at = dice.randint(0, len(data))
        match dice.randrange(7):
            case 0 if data:
                data[min(at, len(data) - 1)] ^= 1 << dice.randrange(8)
            case 1:
                data[at:at] = dice.randbytes(dice.choice((1, 2, 8)))
            case 2:
                del data[at : at + dice.choice((1, 4, 64))]
            case 3:
                data[at:at] = data[at : at + dice.choice((1, 16, 256))] * dice.choice((1, 2, 20))
            case 4:
                other = dice.choice(corpus)
                start = dice.randint(0, len(other))
                data[at:at] = other[start : start + dice.choice((4, 32, 1024))]
            case 5:
                data[at : at + 1] = dice.choice(
                    (b"\x00", b"\xff", b"\xff\xff\xff\xff\x0f", b"\n", b'"', b"\\", b"{", b"}", b"\r\n\r\n")
                )
            case _:
                del data[at:]
    return bytes(data[:MAX_BYTES])


def corpus_of(name):
    """Return what the target begins with, what reaches something of its own in the code, and what once broke a promise."""
    grown = HERE / "corpus" / f"{name}.xz"
    return [
        *(bytes(entry) for entry in load(name).CORPUS),
        *(msgspec.msgpack.decode(lzma.decompress(grown.read_bytes()), type=list[bytes]) if grown.exists() else ()),
        *(path.read_bytes() for path in sorted((HERE / "corpus" / name).glob("*"))),
    ]


def fuzz(name, seconds, seed):
    module = load(name)
    corpus = corpus_of(name)
    dice = random.Random(f"{seed}/{name}")
    deadline = time.monotonic() + seconds
    runs = 0
    while time.monotonic() < deadline:
        data = mutate(dice, corpus)
        runs += 1
        try:
            module.target(data)
        except Exception:  # noqa: BLE001  whatever comes out is the finding
            path = HERE / "corpus" / name / hashlib.sha256(data).hexdigest()[:16]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            traceback.print_exc()
            print(f"{name}: broken after {runs} inputs; kept as {path.relative_to(HERE.parent)}")
            return False
    print(f"{name}: {runs} inputs, nothing broken")
    return True


def fuzz_with_atheris(name, seconds, seed):
    """Run libFuzzer in a process of its own, for it never returns; keep what it found to reach something of its own."""
    broken = HERE / "corpus" / name
    number = int(hashlib.sha256(f"{seed}/{name}".encode()).hexdigest()[:7], 16)
    with tempfile.TemporaryDirectory() as directory:
        for entry in corpus_of(name):
            (Path(directory) / hashlib.sha256(entry).hexdigest()).write_bytes(entry)
        begun = len([*Path(directory).iterdir()])
        broken.mkdir(parents=True, exist_ok=True)
        flags = [f"-max_total_time={seconds:.0f}", f"-max_len={MAX_BYTES}", f"-artifact_prefix={broken}/", f"-seed={number}"]
        command = [sys.executable, HERE / "guided.py", name, directory, *flags]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        entries = sorted(path.read_bytes() for path in Path(directory).iterdir())
    if len(entries) > begun:
        (HERE / "corpus" / f"{name}.xz").write_bytes(lzma.compress(msgspec.msgpack.encode(entries)))
    if not any(broken.iterdir()):
        broken.rmdir()
    if done.returncode:
        print(done.stdout[-5000:])
    verdict = f"broken; kept in {broken.relative_to(HERE.parent)}/" if done.returncode else "nothing broken"
    print(f"{name}: {verdict}, corpus of {begun} inputs now {len(entries)}", flush=True)
    return done.returncode == 0


ENGINES = {"own": fuzz, "atheris": fuzz_with_atheris}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which of {', '.join(targets())}; all by default")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="altogether")
    parser.add_argument("--seed", default=str(random.SystemRandom().randrange(1 << 32)))
    parser.add_argument("--engine", choices=ENGINES, default="own")
    arguments = parser.parse_args()
    names = [name if name.startswith("fuzz_") else f"fuzz_{name}" for name in arguments.names] or targets()
    unknown = set(names) - set(targets())
    if unknown:
        parser.error(f"no such target: {', '.join(sorted(unknown))}; there are {', '.join(targets())}")
    if arguments.engine == "atheris" and importlib.util.find_spec("atheris") is None:
        parser.error("atheris is not installed here: .venv/bin/pip install atheris, or leave out --engine atheris")
    print(f"seed {arguments.seed}", flush=True)
    verdicts = [ENGINES[arguments.engine](name, arguments.seconds / len(names), arguments.seed) for name in names]
    sys.exit(not all(verdicts))


if __name__ == "__main__":
    main()
