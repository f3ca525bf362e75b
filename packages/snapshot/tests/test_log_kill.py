"""A writer killed with SIGKILL at any instruction: nobody ever reads a torn record, one twice, or one in the wrong place."""

import mmap
import os
import random
import signal
import struct
import subprocess
import sys
import time

import pytest

from shunter.snapshot import LogReader
from shunter.snapshot.log import LEAST_BYTES

KILLS = int(os.environ.get("SHUNTER_LOG_KILLS", "25"))
LOG_BYTES = LEAST_BYTES  # as small as it may be: readers are lapped all the time

WRITER = """
import itertools, mmap, struct, sys
from shunter.snapshot import LogReader, LogWriter
with open(sys.argv[1], "r+b") as file:
    buffer = memoryview(mmap.mmap(file.fileno(), 0))
batch = LogReader(buffer).read()
last = struct.unpack_from("=Q", batch.records[-1])[0] if batch else 0
log = LogWriter(buffer)
print("writing", flush=True)
for n in itertools.count(last + 1):
    # Every 8-byte word of record n is n; lengths vary.
    log.append(struct.pack("=Q", n) * (1 + n % 97))
"""


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "log"
    path.write_bytes(bytes(LOG_BYTES))
    with path.open("rb") as file:
        return path, memoryview(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ))


def test_killing_the_writer_again_and_again(log):
    path, buffer = log
    dice = random.Random(1)
    quick, late = LogReader(buffer), LogReader(buffer)
    last, laps, seen = 0, 0, 0
    for _ in range(KILLS):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE)
        try:
            assert writer.stdout.readline() == b"writing\n"
            target = seen + dice.randrange(5, 2000)  # die after a while that is counted in records, not seconds
            deadline = time.monotonic() + 30
            while seen < target:
                assert time.monotonic() < deadline, "a reader starves while a writer writes"
                batch = quick.read()
                if batch is not None:
                    last, count = check(batch, last)
                    seen += count
                    laps += batch.lost
        finally:
            writer.send_signal(signal.SIGKILL)
            writer.wait()
            writer.stdout.close()
        # What the dead one left is whole, for whoever followed it and for whoever comes now.
        batch = quick.read()
        if batch is not None:
            last, _ = check(batch, last)
        for reader in (late, LogReader(buffer)):
            check(reader.read(), 0, newest=last)
    assert seen >= KILLS * 5
    assert laps  # else the interesting case was not met


def check(batch, last, newest=None):
    numbers = []
    for record in batch.records:
        words = set(struct.unpack(f"={len(record) // 8}Q", record))
        assert len(words) == 1, "torn"
        numbers += words
        assert len(record) == 8 * (1 + numbers[-1] % 97)
    if numbers:
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
        assert numbers[0] > last
        assert batch.lost or not last or numbers[0] == last + 1
        last = numbers[-1]
    assert newest is None or last == newest
    return last, len(numbers)
