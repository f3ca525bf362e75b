"""How long one large body keeps all other streams waiting: the longest the picker is busy with one read of the socket.

A worker answers everybody from one thread, so whoever's message comes behind a large body waits until that is dealt with.
Here a body of 10 MB comes as Envoy sends it, in messages of 64 KiB, each read of the socket is timed, and the longest
counts: the one in which the body is complete, decoded, hashed, judged and given back. Beside it stands the calibration,
which says how fast this machine is at this minute: the floor's exchange of 1 KB (26 µs where the budget of 10 ms was set),
and the memory that the process keeps afterwards. Bodies differ in what makes them large: one long text, many messages, an
image in base64.
"""

import base64
import gc
import json
import platform
import random
import resource
import time
from pathlib import Path
from statistics import median
from types import SimpleNamespace

from hack.bench import inprocess, streams

from shunter.picker.shell.allocator import keep_large_blocks

__all__ = ["main"]

MEGABYTES = 10
ROUNDS = 7
READ_BYTES = 256 * 1024  # the most that uvloop reads at once
BUDGET_MS, BUDGET_CALIBRATION_US = 10.0, 26.0


def texts(size):
    dice = random.Random(size)
    word = ["".join(dice.choices("etaoinshrdlu", k=dice.randint(2, 9))) for _ in range(5000)]
    text = " ".join(dice.choices(word, k=size // 5))[:size]
    few = [text[at : at + 2000] for at in range(0, size, 2000)]
    tiny = [text[at : at + 20] for at in range(0, size // 3, 20)]
    image = "data:image/png;base64," + base64.b64encode(dice.randbytes(size * 3 // 4)).decode()
    return {
        "one long text": [{"role": "user", "content": text}],
        "messages of 2 KB": [{"role": "user", "content": each} for each in few],
        "messages of 20 B": [{"role": "user", "content": each} for each in tiny],
        "an image in base64": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": image}}]}],
    }


def rss_mb():
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


def longest_ms(body):
    """The longest read, the median of several streams."""
    memory = SimpleNamespace(counters=None, journal=None, peers=None)
    feed = inprocess.product_connection(inprocess.product_judge(memory))
    client = inprocess.Client(feed, [streams.exchange(body)])
    found = []
    for _ in range(ROUNDS):
        worst = 0.0
        for piece in client.reads():
            for at in range(0, len(piece), READ_BYTES):
                begin = time.perf_counter()
                feed(piece[at : at + READ_BYTES])
                worst = max(worst, time.perf_counter() - begin)
        found.append(worst * 1000)
    return median(found)


def main():
    """Print the table."""
    keep_large_blocks()
    gc.collect()
    gc.freeze()
    calibration_us = min(inprocess.compare("1 KB", 5).floor_us)
    budget_ms = BUDGET_MS * max(1.0, calibration_us / BUDGET_CALIBRATION_US)
    print(f"Python {platform.python_version()}, calibration {calibration_us:.1f} µs, budget {budget_ms:.1f} ms\n")
    for name, messages in texts(MEGABYTES * 1_000_000).items():
        body = json.dumps({"model": "lab/llama-3-8b", "messages": messages}, separators=(",", ":")).encode()
        print(f"{name:>20} {len(body) / 1e6:>6.1f} MB {longest_ms(body):>7.1f} ms  {rss_mb():>6.0f} MB kept", flush=True)
    print(f"\nlargest {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB; bodies and client included")


if __name__ == "__main__":
    main()
