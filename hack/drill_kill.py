"""Kill the picker with SIGKILL under load and count what clients saw, profile by profile.

Open loop: requests start by the clock whether earlier ones are done or not; a quarter are streams of about a second, so that
some are always in the middle of their answer. A request failed if it was not answered 200 and complete. "Without a pick" comes
from Envoy's access log: a request of the drill was served by Envoy's own load balancing because no picker answered.
"""

import argparse
import asyncio
import json
import os
import platform
import signal
import time
from dataclasses import dataclass, field

import aiohttp

from shunter.stack.errors import StackError
from shunter.stack.testing import running_stack

RATE_PER_S = 60
# Of the lab engines, so that nothing but the picker is ever the bottleneck.
SPEED = 20
KILLS = 5
BETWEEN_S = 1.5
# Tells the drill's requests from those by which the stack was found to be ready.
REQUEST_ID = "drill-"


@dataclass
class Toll:
    """What one drill cost."""

    profile: str
    sent: int = 0
    failed: dict[str, int] = field(default_factory=dict)
    without_pick: int = 0
    down_s: list[float] = field(default_factory=list)

    @property
    def failures(self):
        return sum(self.failed.values())


async def ask(session, stack, n, toll):
    streamed = n % 4 == 0
    body = {"model": stack.state.plan.model, "messages": [{"role": "user", "content": f"{n} wagons " + "x" * (n % 3 * 8000)}]}
    body |= {"max_tokens": 300, "ignore_eos": True, "stream": True} if streamed else {"max_tokens": 4}
    toll.sent += 1
    try:
        headers = {"x-request-id": f"{REQUEST_ID}{n}"}
        async with session.post(f"{stack.gateway}/v1/chat/completions", json=body, headers=headers) as response:
            text = await response.read()
            if response.status != 200:
                trouble = f"status {response.status}"
            elif not (b"data: [DONE]" in text if streamed else b'"usage"' in text):
                trouble = "incomplete"
            else:
                return
    except (aiohttp.ClientError, TimeoutError) as error:
        trouble = "stream cut" if streamed else type(error).__name__
    toll.failed[trouble] = toll.failed.get(trouble, 0) + 1


async def kill(stack, kills, toll):
    for _ in range(kills):
        await asyncio.sleep(BETWEEN_S)
        pid = stack.state.pids["picker"]
        killed = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        while True:
            await asyncio.sleep(0.02)
            if stack.state.pids["picker"] != pid:
                ready = await asyncio.to_thread(answers, stack)
                if ready:
                    break
        toll.down_s.append(time.monotonic() - killed)
    await asyncio.sleep(BETWEEN_S)


def answers(stack):
    try:
        return stack.fleet().endpoints
    except StackError:  # not up yet
        return False


async def drill(stack, *, rate_per_s=RATE_PER_S, kills=KILLS):
    """Load a stack, kill its picker ``kills`` times, and return the toll."""
    toll = Toll(stack.state.plan.profile)
    timeout = aiohttp.ClientTimeout(total=60)
    async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0, force_close=True)) as session:
        killer = asyncio.create_task(kill(stack, kills, toll))
        started = time.monotonic()
        requests = []
        while not killer.done():
            while len(requests) < (time.monotonic() - started) * rate_per_s:
                requests.append(asyncio.create_task(ask(session, stack, len(requests), toll)))
            await asyncio.sleep(0.005)
        await asyncio.gather(*requests)
        await killer
    await asyncio.sleep(0.3)  # Envoy flushes its log every 100 ms
    lines = map(json.loads, (stack.directory / "access.log").read_text().splitlines())
    ours = [line for line in lines if (line["request_id"] or "").startswith(REQUEST_ID)]
    toll.without_pick = sum(line["pick"] is None and line["status"] == 200 for line in ours)
    return toll


def count(text):
    if int(text) < 1:
        raise ValueError
    return int(text)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rate", type=count, default=RATE_PER_S, help="requests a second")
    parser.add_argument("--kills", type=count, default=KILLS)
    arguments = parser.parse_args()
    print(f"{os.cpu_count()} cores, Python {platform.python_version()}, {arguments.rate} requests/s, {arguments.kills} kills\n")
    print("| profile | sent | failed | without a pick | picker back after (median) |")
    print("|---|---|---|---|---|")
    for profile in ("lean", "full"):
        with running_stack("--profile", profile, "--speed", str(SPEED)) as stack:
            toll = asyncio.run(drill(stack, rate_per_s=arguments.rate, kills=arguments.kills))
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(toll.failed.items()))
        back = sorted(toll.down_s)[len(toll.down_s) // 2]
        failed = f"{toll.failures}" + (f" ({kinds})" if kinds else "")
        print(f"| {profile} | {toll.sent} | {failed} | {toll.without_pick} | {back:.1f} s |", flush=True)


if __name__ == "__main__":
    main()
