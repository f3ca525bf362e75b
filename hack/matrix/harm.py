"""What comes of each mistake that the linter finds: seen on a real Envoy with the bad example, and not with the good one.

A harm is a value: which example, what is done to its Envoy, and what is seen of both. Rules without one here are those whose
harm is outside of Envoy (who trusts whom), takes minutes, or is that Envoy refuses the next version.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import aiohttp
import msgspec
from hack.matrix.rows import Record
from hack.matrix.scene import EVENT, PATIENCE_S, Scene, set_scene

from shunter.envoyconf.core.names import DESTINATION
from shunter.envoyconf.core.versions import OLDEST_VERIFIED, Version, parse_version

__all__ = ["HARMS", "Harm", "seen", "suite"]

DIRECTORY = Path(__file__).parents[2] / "packages" / "envoyconf" / "tests" / "lint" / "envoy"
EXAMPLES = {(path.parent.name, path.stem): path.read_text() for path in DIRECTORY.glob("*/*.yaml")}

Probe = Callable[[Scene], Awaitable[str]]


class Harm(msgspec.Struct, frozen=True, kw_only=True):
    """One mistake and what comes of it."""

    code: str
    probe: Probe
    bad: str  # what is seen of the bad example
    good: str
    example: str = "bad"
    picker: str = "alive"
    picks: tuple[int, ...] = (2,)
    shortened: Mapping[str, str] = {}
    certified: bool | None = None  # pickers speak TLS, and show a certificate of the example's CA or of another one
    since: Version = OLDEST_VERIFIED
    is_quick: bool = False  # shown by the package's tests, not only in the matrix

    def __str__(self) -> str:
        return f"{self.code}/{self.example}"


async def seen(harm: Harm, example: str, version: str) -> str:
    """Return what is seen of the harm's example of that name."""
    text = EXAMPLES[harm.code, example]
    settings = {"picker": harm.picker, "shortened": harm.shortened, "certified": harm.certified}
    async with set_scene(text, version, harm.picks, **settings) as scene:
        return await harm.probe(scene)


async def get_and_post(scene: Scene) -> str:
    answers = [await scene.ask(method=method) for method in ("GET", "POST")]
    return "GET {}, POST {}".format(*(answer.split()[0] for answer in answers))


async def post(scene: Scene) -> str:
    return await scene.ask()


async def long_post(scene: Scene) -> str:
    return await scene.ask(size=100_000)


async def longer_post(scene: Scene) -> str:
    return await scene.ask(size=1_500_000)


async def several(scene: Scene) -> str:
    return await scene.several()


async def many(scene: Scene) -> str:
    return await scene.several(count=40)


async def forged(scene: Scene) -> str:
    """What a client gets that names the third model server, which is of no pool; or the first one."""
    outside = await scene.several(headers={DESTINATION: scene.engines[2].authority})
    inside = await scene.several(headers={DESTINATION: scene.engines[0].authority})
    return f"outside: {outside}, inside: {inside}"


async def two_paths(scene: Scene) -> str:
    """Who answers on the first pool's path, and who on the second's."""
    return f"{await scene.several()}; {await scene.several('/b')}"


async def forged_path(scene: Scene) -> str:
    answer = await scene.ask("/files/1", method="GET", headers={DESTINATION: scene.engines[2].authority})
    return answer.split()[0]


async def forged_subset(scene: Scene) -> str:
    name = f"{DESTINATION}-subset"
    await scene.ask(headers={name: "client"})
    return scene.headers[0].get(name, "removed").replace(scene.engines[0].authority, "gateway")


async def forged_sidecar(scene: Scene) -> str:
    name = "x-prefiller-host-port"
    await scene.ask(headers={name: "client"})
    return scene.headers[0].get(name, "removed")


async def underscored(scene: Scene) -> str:
    return await scene.ask(headers={DESTINATION.replace("-", "_"): scene.engines[0].authority})


async def admin(scene: Scene) -> str:
    async with scene.client.get(f"http://{scene.envoy.admin}/config_dump") as answer:
        return str(answer.status)


async def stream_at_restart(scene: Scene) -> str:
    """What becomes of a stream whose picker dies in the middle."""
    return await _held(scene, scene.picker.cut)


async def long_stream(scene: Scene) -> str:
    return await _held(scene, lambda: asyncio.sleep(1))


async def first_event(scene: Scene) -> str:
    """Whether the first event of a stream comes before the second."""
    engine = scene.engines[1]
    engine.go.clear()
    try:
        async with asyncio.timeout(PATIENCE_S), scene.client.post(f"{scene.envoy.url}/events") as answer:
            await answer.content.readexactly(len(EVENT))
            return "at once"
    except TimeoutError:
        return "held back"
    finally:
        engine.go.set()


async def _held(scene: Scene, meanwhile: Callable[[], Awaitable[None]]) -> str:
    """What becomes of a stream of which the first part has come."""
    engine = scene.engines[1]
    engine.go.clear()
    try:
        async with asyncio.timeout(PATIENCE_S), scene.client.post(f"{scene.envoy.url}/events") as answer:
            await answer.content.readexactly(len(EVENT))
            await meanwhile()
            engine.go.set()
            return "whole" if await answer.content.read() == EVENT else "cut"
    except aiohttp.ClientPayloadError:
        return "cut"


async def long_silence(scene: Scene) -> str:
    scene.engines[1].go.clear()
    asyncio.get_running_loop().call_later(1, scene.engines[1].go.set)
    return await scene.ask()


async def hung_picker(scene: Scene) -> str:
    scene.picker.block()
    try:
        return await scene.ask()
    finally:
        await scene.picker.restore()


async def slow_picker(scene: Scene) -> str:
    """What is answered while the picker takes 400 ms for its pick."""
    scene.picker.block()
    tasks = [asyncio.create_task(scene.ask()) for _ in range(6)]
    await asyncio.sleep(0.4)
    await scene.picker.restore()
    return ", ".join(sorted(set(await asyncio.gather(*tasks))))


async def late_picker(scene: Scene) -> str:
    """Who answers six seconds after the picker has come."""
    await scene.picker.restore()
    await asyncio.sleep(6)
    return await scene.several()


async def told(scene: Scene) -> str:
    await scene.ask()
    return "told" if scene.judge.told else "not told"


async def many_at_once(scene: Scene) -> str:
    """How many of 120 requests under way were picked."""
    for engine in scene.engines:
        engine.go.clear()
    tasks = [asyncio.create_task(scene.ask()) for _ in range(120)]
    async with asyncio.timeout(30):
        while sum(len(engine.requests) for engine in scene.engines) < len(tasks):  # noqa: ASYNC110 # as above
            await asyncio.sleep(0.01)
    for engine in scene.engines:
        engine.go.set()
    await asyncio.gather(*tasks)
    return f"{len(scene.judge.asks)} asked"


async def attempts_on_hanging_up(scene: Scene) -> str:
    for engine in scene.engines:
        engine.hangs_up = True
    await scene.ask()
    return f"{sum(len(engine.requests) for engine in scene.engines)} times"


async def attempts_on_429(scene: Scene) -> str:
    for engine in scene.engines:
        engine.status = 429
    await scene.ask()
    return f"{sum(len(engine.requests) for engine in scene.engines)} times"


async def ejected(scene: Scene) -> str:
    """Who gets requests after an answer for which outlier detection ejects the picked one."""
    scene.engines[1].status = 500
    await scene.ask()
    scene.engines[1].status = 200
    url = f"http://{scene.envoy.admin}/stats?filter=cluster.pool.outlier_detection.ejections_active"
    is_ejected = False
    for _ in range(100):  # workers tell the main thread
        async with scene.client.get(url) as answer:
            is_ejected = (await answer.text()).strip().endswith(": 1")
        if is_ejected:
            break
        await asyncio.sleep(0.02)
    return f"{'ejected' if is_ejected else 'not ejected'}, {await scene.several()}"


async def unknown_path(scene: Scene) -> str:
    return await scene.ask("/v2/models", method="GET")


async def unknown_model(scene: Scene) -> str:
    """What requests get whose model nobody knows: the body router is not asked of what has no body."""
    return ", ".join(sorted({await scene.ask(method="GET") for _ in range(6)}))


A_MINUTE = {"60s": "0.5s"}
SILENCE = {"300s": "0.5s"}

HARMS = (
    Harm(code="E01", probe=get_and_post, picker="dead", bad="GET 503, POST 503", good="GET 200, POST 200", is_quick=True),
    Harm(code="E02", probe=get_and_post, picker="dead", bad="GET 200, POST 500", good="GET 200, POST 200", is_quick=True),
    Harm(code="E03", probe=get_and_post, picker="dead", bad="GET 200, POST 500", good="GET 200, POST 200"),
    Harm(code="E05", probe=post, bad="500", good="200 2"),
    Harm(code="W06", example="bad-observing", probe=several, bad="200 1, 200 2", good="200 2"),
    Harm(code="W06", example="bad-grpc", since=Version(1, 37), probe=several, bad="200 1, 200 2", good="200 2"),
    Harm(code="E07", probe=several, bad="200 1, 200 2", good="200 2"),
    Harm(code="E08", probe=several, bad="200 1, 200 2", good="200 2"),
    Harm(code="E09", probe=several, certified=True, bad="200 1, 200 2", good="200 2"),
    Harm(code="E10", probe=several, certified=True, bad="200 1, 200 2", good="200 2", is_quick=True),
    Harm(code="W11", probe=several, certified=False, bad="200 2", good="200 1, 200 2"),
    Harm(code="E12", probe=several, bad="200 1, 200 2", good="200 2", is_quick=True),
    Harm(code="E12", example="bad-other", probe=several, bad="200 1, 200 2", good="200 2"),
    Harm(code="W13", probe=told, bad="not told", good="told", since=Version(1, 38)),
    Harm(code="W15", example="bad-few", probe=many_at_once, bad="100 asked", good="120 asked"),
    Harm(code="W16", probe=slow_picker, bad="200 1, 200 2", good="200 2"),
    Harm(code="W17", probe=hung_picker, shortened=SILENCE, bad="hung", good="504"),
    Harm(code="W18", since=Version(1, 37), probe=stream_at_restart, bad="cut", good="whole", is_quick=True),
    Harm(code="W18", example="bad-streamed", since=Version(1, 37), probe=stream_at_restart, bad="cut", good="whole"),
    Harm(code="W19", probe=several, picker="halved", bad="200 1, 200 2", good="200 2"),
    Harm(code="W20", probe=post, picker="dead", bad="500", good="503"),
    Harm(
        code="E21",
        probe=forged,
        picker="silent",
        bad="outside: 200 3, inside: 200 1",
        good="outside: 503, inside: 503",
        is_quick=True,
    ),
    Harm(
        code="E21",
        example="bad-pool",
        probe=forged,
        picker="silent",
        bad="outside: 200 1, 200 2, inside: 200 1",
        good="outside: 503, inside: 503",
    ),
    Harm(code="E22", probe=forged_subset, picker="dead", bad="client", good="gateway"),
    Harm(
        code="W23",
        probe=forged,
        picker="silent",
        bad="outside: 200 1, 200 2, inside: 200 1",
        good="outside: 200 1, 200 2, inside: 200 1, 200 2",
    ),
    Harm(code="E24", probe=post, bad="503", good="200 2", is_quick=True),
    Harm(code="W25", probe=forged_sidecar, picker="dead", bad="client", good="removed", is_quick=True),
    Harm(
        code="W26",
        since=Version(1, 37),
        probe=admin,
        shortened={"[{exact: /ready}": "[{prefix: /listeners}, {exact: /ready}"},
        bad="200",
        good="403",
    ),
    Harm(code="W27", probe=underscored, bad="200 2", good="400"),
    Harm(code="E28", probe=forged_path, bad="503", good="200"),
    Harm(code="E29", probe=many, bad="200 2, 200 3, 200 4", good="200 2, 200 4", is_quick=True),
    Harm(code="E30", probe=several, bad="200 1, 200 2", good="200 2"),
    Harm(code="E30", example="bad-disabled", probe=several, bad="200 1, 200 2", good="200 2", is_quick=True),
    Harm(code="E31", probe=post, bad="404", good="200 2"),
    Harm(code="W32", probe=unknown_model, bad="200 3, 200 4", good="404"),
    Harm(code="E33", probe=several, bad="200 1, 200 2", good="200 2"),
    Harm(code="E35", probe=unknown_path, bad="503", good="200 2"),
    Harm(code="E44", example="bad-minute", probe=long_stream, shortened=A_MINUTE, bad="cut", good="whole", is_quick=True),
    Harm(code="W45", probe=long_silence, shortened={"3s": "0.3s"}, bad="504", good="200 2"),
    Harm(code="W45", example="bad-try", probe=long_silence, shortened={"3s": "0.3s"}, bad="504", good="200 2"),
    Harm(code="W47", since=Version(1, 37), example="bad-model", probe=longer_post, bad="413", good="200 2"),
    Harm(code="W47", since=Version(1, 37), probe=long_post, bad="413", good="200 2"),
    Harm(
        code="W47",
        since=Version(1, 37),
        example="bad-retries",
        probe=long_post,
        picks=(0, 2),
        bad="503",
        good="200 2",
        is_quick=True,
    ),
    Harm(code="W48", probe=post, picks=(0, 2), bad="503", good="200 2", is_quick=True),
    Harm(code="W49", probe=post, picks=(0, 2), bad="503", good="200 2", is_quick=True),
    Harm(code="W50", probe=attempts_on_hanging_up, bad="3 times", good="1 times"),
    Harm(code="W50", example="bad-gateway", probe=attempts_on_hanging_up, bad="3 times", good="1 times"),
    Harm(code="W50", example="bad-full", probe=attempts_on_429, bad="3 times", good="1 times"),
    Harm(code="W51", probe=ejected, bad="ejected, 200 2", good="not ejected, 200 2"),
    Harm(code="W52", example="bad-route", probe=long_stream, shortened=A_MINUTE, bad="cut", good="whole"),
    Harm(code="W52", example="bad-cluster", probe=long_stream, shortened=A_MINUTE, bad="cut", good="whole"),
    Harm(code="W94", probe=late_picker, picker="late", bad="200 1, 200 2", good="200 2"),
    Harm(code="E95", probe=several, bad="200 1, 200 2", good="200 2", is_quick=True),
    Harm(code="E95", example="bad-least-request", probe=several, bad="200 1, 200 2", good="200 2"),
    Harm(code="E95", example="bad-word", probe=several, bad="200 1, 200 2", good="200 2"),
    Harm(code="W96", probe=several, picker="full", bad="200 1, 200 2", good="429", is_quick=True),
    Harm(code="W96", example="bad-closed", probe=several, picker="full", bad="503", good="429"),
    Harm(code="W97", probe=first_event, bad="held back", good="at once"),
    Harm(code="W97", example="bad-partial", probe=first_event, bad="held back", good="at once"),
    Harm(code="E98", probe=several, bad="200 1, 200 2", good="200 2", is_quick=True),
    Harm(code="E98", example="bad-everywhere", probe=several, bad="200 1, 200 2", good="200 2"),
    Harm(code="E102", probe=two_paths, bad="200 2; 200 3, 200 4", good="200 2; 200 4", is_quick=True),
    Harm(code="E102", example="bad-idle", probe=two_paths, bad="200 2; 200 3, 200 4", good="200 2; 200 4"),
    Harm(code="E102", example="bad-both", probe=two_paths, bad="200 1, 200 2; 200 4", good="200 2; 200 4"),
    Harm(code="E103", probe=several, bad="503", good="200 2", is_quick=True),
    Harm(code="E103", example="bad-allowed", probe=several, bad="503", good="200 2"),
    Harm(code="E103", example="bad-expression", probe=several, bad="503", good="200 2"),
    Harm(code="E103", example="bad-pool", probe=several, bad="200 1, 200 2", good="200 2"),
    Harm(code="E104", probe=several, bad="200 1, 200 2", good="200 2", is_quick=True),
    Harm(code="E104", example="bad-logical", probe=several, bad="200 1, 200 2", good="200 2"),
    Harm(code="E104", example="bad-name", probe=several, bad="200 1, 200 2", good="200 2"),
)


def suite(record: Record, versions: tuple[str, ...]) -> None:
    """Take down every harm on every version that has what its example uses."""
    for version in versions:
        for harm in HARMS:
            if parse_version(version) >= harm.since:
                bad, good = asyncio.run(_both(harm, version))
                detail, ok = f"bad example: {bad}; good example: {good}", (bad, good) == (harm.bad, harm.good)
                check = f"lint-harm:{harm}"
                record(target="lint", envoy_version=version, profile="-", check=check, ok=ok, detail=detail)


async def _both(harm: Harm, version: str) -> tuple[str, str]:
    return await seen(harm, harm.example, version), await seen(harm, "good", version)
