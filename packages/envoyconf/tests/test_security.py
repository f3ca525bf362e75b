"""Who is let in and how often, by what a real Envoy does."""

import base64
import hashlib
import hmac
import json
import time

import pytest

from shunter.envoyconf import IntentError, bootstrap, load_intent

pytestmark = pytest.mark.envoy

KEYS = {
    "apiKeys": [{"client": "alice", "key": "key-a"}, {"client": "alice", "key": "key-new"}, {"client": "bob", "key": "key-b"}]
}


def b64(data):
    return base64.urlsafe_b64encode(data if isinstance(data, bytes) else json.dumps(data).encode()).rstrip(b"=").decode()


def key_set(secret):
    return json.dumps({"keys": [{"kty": "oct", "alg": "HS256", "kid": "1", "k": b64(secret)}]})


def token(secret, **claims):
    told = {"iss": "https://issuer.test", "sub": "carol", "aud": "llm", "exp": int(time.time()) + 600} | claims
    text = f"{b64({'alg': 'HS256', 'kid': '1'})}.{b64(told)}"
    return f"Bearer {text}.{b64(hmac.digest(secret, text.encode(), hashlib.sha256))}"


def headers_at(upstream):
    """Return the headers of the last request that a model server saw, in lower case."""
    return {name.lower(): value for name, value in upstream.requests[-1][1].items()}


@pytest.fixture
def upstream(scene):
    scene.pickers[0].pick = scene.upstreams[0].authority
    return scene.upstreams[0]


async def test_keys_let_in_and_stay_here(scene, upstream, until):
    async with scene.envoy(scene.bootstrap(security=KEYS)) as envoy:
        for header, key, client in (
            ("authorization", "Bearer key-a", "alice"),
            ("authorization", "Bearer key-new", "alice"),
            ("x-api-key", "key-b", "bob"),
        ):
            status, _, _ = await scene.ask(envoy, headers={header: key, "x-client-id": "mallory"})
            assert status == 200
            seen = headers_at(upstream)
            assert seen["x-client-id"] == client
            assert not {"authorization", "x-api-key"} & seen.keys()
            assert "mallory" not in str(scene.pickers[0].asked[-1])
        await until(lambda: len(envoy.access_log()) == 3)
        lines = envoy.access_log()
    assert [line["client"] for line in lines] == ["alice", "alice", "bob"]
    assert "key-" not in str(lines)


@pytest.mark.parametrize("header", [{}, {"authorization": "Bearer wrong"}, {"x-client-id": "alice"}])
async def test_without_a_key_no_picker_is_asked(header, scene, upstream):
    async with scene.envoy(scene.bootstrap(security=KEYS)) as envoy:
        status, text, headers = await scene.ask(envoy, headers=header)
    assert (status, headers["content-type"]) == (401, "application/json")
    assert json.loads(text)["error"]["type"] == "authentication_error"
    assert json.loads(text)["error"]["code"] == "invalid_api_key"
    assert scene.pickers[0].asked == upstream.requests == []


async def test_the_admin_interface_shows_no_key(scene):
    async with (
        scene.envoy(scene.bootstrap(security=KEYS)) as envoy,
        scene.client.get(f"http://{envoy.admin}/config_dump") as told,
    ):
        assert "[redacted]" in (text := await told.text())
    assert "key-a" not in text


async def test_anybody_could_claim_to_be_alice_if_the_header_were_not_removed(scene, upstream):
    resource = scene.bootstrap()  # without keys the header is nobody's
    async with scene.envoy(resource) as envoy:
        await scene.ask(envoy, headers={"x-client-id": "mallory"})
    assert headers_at(upstream)["x-client-id"] == "mallory"


async def test_tokens_let_in_and_stay_here(scene, upstream, tmp_path):
    keys = tmp_path / "jwks.json"
    keys.write_text(key_set(b"first"))
    jwt = {"name": "issuer", "issuer": "https://issuer.test", "audiences": ["llm"], "jwksFile": str(keys)}
    async with scene.envoy(scene.bootstrap(security={"jwt": [jwt]})) as envoy:

        async def ask(authorization):
            return await scene.ask(envoy, headers={"authorization": authorization, "x-client-id": "mallory"})

        assert (await ask(token(b"first")))[0] == 200
        assert headers_at(upstream)["x-client-id"] == "carol"
        assert "authorization" not in headers_at(upstream)
        for bad, expected, code in (
            (token(b"wrong"), 401, "invalid_api_key"),
            (token(b"first", exp=1), 401, "invalid_api_key"),
            (token(b"first", iss="https://other.test"), 401, "invalid_api_key"),
            (token(b"first", aud="mail"), 403, "access_denied"),
            ("Bearer nonsense", 401, "invalid_api_key"),
        ):
            status, text, headers = await ask(bad)
            assert (status, json.loads(text)["error"]["code"]) == (expected, code)
            assert headers["content-type"] == "application/json"


async def test_tokens_of_two_issuers_one_of_which_is_fetched(scene, upstream):
    jwks, other = scene.upstreams[1], key_set(b"other")
    jwks.pieces = [key_set(b"fetched").encode()]
    jwks.go.release()
    issuers = [
        {"name": "far", "issuer": "https://issuer.test", "jwksUri": f"http://{jwks.authority}/jwks"},
        {"name": "near", "issuer": "https://other.test", "jwksFile": "other.json"},
    ]
    resource = scene.bootstrap(endpoints=[upstream.authority], security={"jwt": issuers})
    text = json.dumps(resource).replace('"filename": "other.json"', f'"inline_string": {json.dumps(other)}')
    async with scene.envoy(json.loads(text)) as envoy:
        for bearer, expected in (
            (token(b"fetched"), 200),
            (token(b"other", iss="https://other.test", sub="dave"), 200),
            (token(b"fetched", iss="https://other.test"), 401),
        ):
            assert (await scene.ask(envoy, headers={"authorization": bearer}))[0] == expected
    assert [path for path, _, _ in jwks.requests] == ["/jwks"]
    assert headers_at(upstream)["x-client-id"] == "dave"


async def test_a_limit_for_all(scene, upstream):
    security = {"rateLimits": [{"requests": 2, "per": "hour"}]}
    async with scene.envoy(scene.bootstrap(security=security)) as envoy:
        answers = [await scene.ask(envoy) for _ in range(4)]
    assert [status for status, _, _ in answers] == [200, 200, 429, 429]
    _, text, headers = answers[-1]
    assert json.loads(text)["error"] == {
        "message": "too many requests; try again later",
        "type": "rate_limit_error",
        "param": None,
        "code": "rate_limit_exceeded",
    }
    assert 0 < int(headers["retry-after"]) <= 1800
    assert len(scene.pickers[0].asked) == len(upstream.requests) == 2


async def test_a_limit_for_each_client_beside_one_for_all(scene, upstream):
    limits = [{"requests": 2, "per": "hour", "by": "x-client-id"}, {"requests": 60, "per": "hour"}]
    clients = [{"client": f"c{number}", "key": f"k{number}"} for number in range(25)]  # Envoy's default would forget 5 of them
    async with scene.envoy(scene.bootstrap(security={"apiKeys": clients, "rateLimits": limits})) as envoy:

        async def ask(number):
            status, _, _ = await scene.ask(envoy, headers={"authorization": f"Bearer k{number}"})
            return status

        for expected in (200, 200, 429):
            assert [await ask(number) for number in range(25)] == [expected] * 25
    assert len(upstream.requests) == 50


async def test_by_envoys_default_many_clients_would_meet_no_limit(scene, upstream):
    resource = scene.bootstrap(security={"rateLimits": [{"requests": 1, "per": "hour", "by": "x-tenant"}]})
    text = json.dumps(resource).replace('"max_dynamic_descriptors": 10000, ', "")
    async with scene.envoy(json.loads(text)) as envoy:
        answers = [await scene.ask(envoy, headers={"x-tenant": str(number % 25)}) for number in range(50)]
    assert {status for status, _, _ in answers} == {200}


async def test_requests_without_the_header_share_a_bucket_of_the_same_size(scene, upstream):
    limits = [{"requests": 2, "per": "hour", "by": "x-tenant"}]
    async with scene.envoy(scene.bootstrap(security={"rateLimits": limits})) as envoy:
        for headers in (None, {"x-tenant": "a"}, {"x-tenant": "b"}):
            assert [(await scene.ask(envoy, headers=headers))[0] for _ in range(3)] == [200, 200, 429]


@pytest.mark.parametrize(
    ("security", "message"),
    [
        ({"apiKeys": [{"client": "team-a.b"}]}, r"security\.apiKeys\[0\]\.key is missing.*\$\{LLM_KEY_TEAM_A_B\}"),
        ({"apiKeysSecret": "keys"}, r"security\.apiKeys are missing"),
        ({"apiKeys": [{"client": "a", "key": "k"}, {"client": "b", "key": "k"}]}, r"\$\.security\.apiKeys has one key twice"),
        ({"jwt": [{"name": "a", "issuer": "b"}]}, r"one of jwksFile and jwksUri must be given"),
        ({"jwt": [{"name": "a", "issuer": "b", "jwksUri": "ftp://x/y"}]}, r"jwksUri 'ftp://x/y' must be a URL"),
        ({"jwt": [{"name": "a", "issuer": "b", "jwksUri": "https://me:x@x/y"}]}, r"must be a URL without user or blanks"),
        ({"jwt": [{"name": "a", "issuer": "b", "jwksUri": "https://x/y z"}]}, r"must be a URL without user or blanks"),
        ({"jwt": [{"name": "a", "issuer": "b", "jwksUri": "https:///y"}]}, r"jwksUri 'https:///y' must be a URL"),
        ({"jwt": [{"name": "a", "issuer": "b", "jwksUri": "https://x:y/"}]}, r"jwksUri 'https://x:y/' must be a URL"),
    ],
)
def test_what_cannot_be_is_said(security, message):
    pool = {"name": "a", "endpoints": ["h:1"], "picker": {"addresses": ["h:2"]}}
    with pytest.raises(IntentError, match=message):
        bootstrap(load_intent(json.dumps({"pools": [pool], "security": security})))
