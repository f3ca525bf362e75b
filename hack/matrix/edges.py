"""Before the picker and behind the pool, on each Envoy: who is let in, how often, and who answers what model servers refuse."""

import asyncio
import base64
import contextlib
import hashlib
import hmac
import json
import tempfile
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
from aiohttp import web
from aiohttp.test_utils import TestServer
from hack.matrix.rows import Record

from shunter.envoyconf import EnvoyRefusedError, IntentError, Profile, bootstrap, load_intent
from shunter.envoyconf.core.output import Settings
from shunter.envoyconf.core.protojson import Resource
from shunter.envoyconf.core.versions import parse_version
from shunter.envoyconf.shell.envoy import find
from shunter.envoyconf.testing import running_envoy

__all__ = ["EDGES", "Edge", "seen", "suite"]

SECRET = b"secret"
PROVIDERS_KEY = "theirs"


class Scene:
    """A gateway, its model server, and a provider."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.asked: list[dict[str, str]] = []  # headers that the model server was sent
        self.spilled: list[dict[str, str]] = []  # and the provider
        self.provider = self.url = ""

    async def ask(self, **headers: str) -> int:
        """Return the status of an answer."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        async with aiohttp.ClientSession() as client, client.get(f"{self.url}/v1/models", headers=sent) as answer:
            return answer.status


class Edge(msgspec.Struct, frozen=True):
    """What an intent says beside its pool, how that is tried, and what is to be seen."""

    check: str
    fields: Callable[[Scene], dict[str, Any]]
    probe: Callable[[Scene], Awaitable[str]]
    seen: str
    status: int = 200  # what the model server answers


def token(audience: str) -> str:
    """Return a token of an issuer."""
    claims = {"iss": "issuer", "sub": "carol", "aud": audience, "exp": int(time.time()) + 600}
    parts = [base64.urlsafe_b64encode(json.dumps(each).encode()).rstrip(b"=") for each in ({"alg": "HS256"}, claims)]
    signature = hmac.digest(SECRET, b".".join(parts), hashlib.sha256)
    return f"Bearer {b'.'.join((*parts, base64.urlsafe_b64encode(signature).rstrip(b'='))).decode()}"


def issuer(scene: Scene) -> dict[str, Any]:
    key = {"kty": "oct", "alg": "HS256", "k": base64.urlsafe_b64encode(SECRET).rstrip(b"=").decode()}
    file = scene.directory / "jwks.json"
    file.write_text(json.dumps({"keys": [key]}))
    return {"security": {"jwt": [{"name": "a", "issuer": "issuer", "audiences": ["llm"], "jwksFile": str(file)}]}}


def overflow(scene: Scene) -> dict[str, Any]:
    key = scene.directory / "key"
    key.write_text(PROVIDERS_KEY)
    return {"overflow": {"address": scene.provider, "tls": False, "credentialFile": str(key)}}


async def by_key(scene: Scene) -> str:
    statuses = [
        await scene.ask(),
        await scene.ask(authorization="Bearer wrong"),
        await scene.ask(x_api_key="right", x_client_id="b"),
    ]
    (told,) = scene.asked
    return f"{statuses}, {told['x-client-id']}, key {'seen' if 'x-api-key' in told else 'hidden'}"


async def by_token(scene: Scene) -> str:
    statuses = [await scene.ask(), *[await scene.ask(authorization=token(each)) for each in ("mail", "llm")]]
    (told,) = scene.asked
    return f"{statuses}, {told['x-client-id']}, token {'seen' if 'authorization' in told else 'hidden'}"


async def often(scene: Scene) -> str:
    return str([await scene.ask(x_tenant=tenant) for tenant in ("a", "a", "b", "a")])


async def spill(scene: Scene) -> str:
    status = await scene.ask(authorization="Bearer ours", x_session_id="s")
    (told,) = scene.spilled
    session = "seen" if "x-session-id" in told else "hidden"
    return f"{status} after {len(scene.asked)} tries, {told['authorization']}, session {session}"


KEYS = {"security": {"apiKeys": [{"client": "alice", "key": "right"}]}}
LIMIT = {"security": {"rateLimits": [{"requests": 2, "per": "hour", "by": "x-tenant"}]}}
EDGES = (
    Edge("API keys", lambda _: KEYS, by_key, "[401, 401, 200], alice, key hidden"),
    Edge("tokens", issuer, by_token, "[401, 403, 200], carol, token hidden"),
    Edge("rate limit by header", lambda _: LIMIT, often, "[200, 200, 200, 429]"),
    Edge("overflow", overflow, spill, f"200 after 3 tries, Bearer {PROVIDERS_KEY}, session hidden", status=429),
)


async def seen(edge: Edge, version: str, spoil: Callable[[Resource], None] = lambda _: None) -> str:
    """Return what is seen on that Envoy; raise IntentError if it cannot have what is asked for.

    ``spoil`` breaks the bootstrap, to see that the checks notice.
    """
    async with contextlib.AsyncExitStack() as stack:
        scene = Scene(Path(stack.enter_context(tempfile.TemporaryDirectory())))
        server = await stack.enter_async_context(_serving(scene.asked, edge.status))
        scene.provider = await stack.enter_async_context(_serving(scene.spilled, 200))
        fields = edge.fields(scene)
        pool = {"name": "p", "endpoints": [server], "picker": {"addresses": ["127.0.0.1:9"]}}
        pool |= {"overflow": fields.pop("overflow")} if "overflow" in fields else {}
        intent = load_intent(json.dumps({"pools": [pool], "listeners": [{"port": 0}]} | fields))
        resource = bootstrap(intent, Settings(envoy_version=parse_version(version)))
        spoil(resource)
        envoy = await stack.enter_async_context(running_envoy(resource, find(version)))
        scene.url = envoy.url
        return await edge.probe(scene)


def suite(record: Record, versions: tuple[str, ...]) -> None:
    """Take down every edge on every version."""
    for version in versions:
        for edge in EDGES:
            try:
                detail = asyncio.run(seen(edge, version))
                ok = detail == edge.seen
            except IntentError as error:
                ok, detail = True, f"refused: {error}"
            except EnvoyRefusedError as error:
                ok, detail = False, str(error)
            profile = Profile.LEAN.value
            record(target="envoy-static", envoy_version=version, profile=profile, check=edge.check, ok=ok, detail=detail)


@contextlib.asynccontextmanager
async def _serving(told: list[dict[str, str]], status: int) -> AsyncGenerator[str]:
    async def answer(request: web.Request) -> web.Response:
        told.append({name.lower(): value for name, value in request.headers.items()})
        return web.Response(status=status)

    app = web.Application()
    app.router.add_get("/v1/models", answer)
    async with TestServer(app, host="127.0.0.1") as server:
        yield f"127.0.0.1:{server.port}"
