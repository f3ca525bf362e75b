"""A writer killed with SIGKILL at any instruction: nobody ever reads a torn frame or an older one than before."""

import os
import random
import signal
import struct
import subprocess
import sys
import threading
import time

from shunter.snapshot import RingReader

KILLS = int(os.environ.get("SHUNTER_RING_KILLS", "25"))

WRITER = """
import sys, struct, itertools
from pathlib import Path
from shunter.snapshot import RingWriter
writer = RingWriter(Path(sys.argv[1]), capacity_bytes=256)
print("writing", flush=True)
for n in itertools.count(writer.sequence + 1):
    # Every 8-byte word of frame n is n; lengths vary, and grow beyond the slot now and then.
    writer.publish(struct.pack("=Q", n) * (1 + n % 97 if n % 5000 else 100 + n // 5000), n)
"""


def test_killing_the_writer_again_and_again(tmp_path):
    path = tmp_path / "r"
    stop = threading.Event()
    faults, reads = [], [0, 0]

    def read(me):
        reader = RingReader(path)
        last = 0
        while not stop.is_set():
            frame = reader.poll(time.monotonic_ns())
            if frame is None:
                continue
            reads[me] += 1
            if frame.sequence <= last:
                faults.append(f"backwards: {frame.sequence} after {last}")
            last = frame.sequence
            if set(struct.unpack(f"={len(frame.payload) // 8}Q", frame.payload)) != {frame.sequence}:
                faults.append(f"torn: frame {frame.sequence}")
            if frame.published_ns != frame.sequence:
                faults.append(f"wrong time: frame {frame.sequence}")
        reader.close()

    readers = [threading.Thread(target=read, args=(me,)) for me in range(2)]
    dice = random.Random(1)
    started = False
    try:
        for _ in range(KILLS):
            writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE)
            try:
                assert writer.stdout.readline() == b"writing\n"
                if not started:
                    started = True
                    for thread in readers:
                        thread.start()
                target = reads[0] + dice.randrange(5, 200)  # die after a while that is counted in reads, not seconds
                deadline = time.monotonic() + 30
                while reads[0] < target and not faults:
                    assert time.monotonic() < deadline, "readers starve while a writer publishes"
            finally:
                writer.send_signal(signal.SIGKILL)
                writer.wait()
                writer.stdout.close()
    finally:
        stop.set()
        for thread in readers:
            thread.join()
    assert not faults
    assert min(reads) >= KILLS
