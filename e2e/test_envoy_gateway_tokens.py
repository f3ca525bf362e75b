"""Tokens at the real Envoy Gateway: who is let in, what model servers are told of it, and that traces are sent along."""

import base64
import json
import os
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import aiohttp
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from shunter.envoyconf import load_intent
from shunter.envoyconf.core.generate import generate
from shunter.envoyconf.core.targets import Target

pytestmark = [
    pytest.mark.envoy,
    pytest.mark.skipif("SHUNTER_EVERY_GATEWAY" not in os.environ, reason="needs its time: make envoyconf-gateways"),
]

URL = "http://127.0.0.1:10080"


def encoded(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Issuer:
    """Signs tokens, shows its keys at /keys, and answers everything else with the headers that it was sent."""

    def __init__(self):
        self.key = rsa.generate_private_key(65537, 2048)
        numbers = self.key.public_key().public_numbers()
        public = {
            "kty": "RSA",
            "alg": "RS256",
            "kid": "1",
            "e": encoded(numbers.e.to_bytes(3, "big")),
            "n": encoded(numbers.n.to_bytes(256, "big")),
        }
        self.keys = json.dumps({"keys": [public]})

    def token(self, **claims):
        head, body = ({"alg": "RS256", "kid": "1"}, {"iss": "us", "exp": time.time() + 600, **claims})
        text = ".".join(encoded(json.dumps(part).encode()) for part in (head, body))
        return f"{text}.{encoded(self.key.sign(text.encode(), padding.PKCS1v15(), hashes.SHA256()))}"

    def handler(self):
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                body = (issuer.keys if self.path == "/keys" else json.dumps(dict(self.headers))).encode()
                self.send_response(200)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                """Keep still."""

        return Handler


@pytest.fixture(scope="module")
def issuer(envoy_gateway):
    issuer = Issuer()
    with ThreadingHTTPServer(("127.0.0.1", 0), issuer.handler()) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        here = f"127.0.0.1:{server.server_port}"
        jwt = {"name": "us", "issuer": "us", "audiences": ["llm"], "jwksUri": f"http://{here}/keys"}
        asked = {
            "profile": "native",
            "listeners": [{"port": 10080}],
            "pools": [{"name": "llama", "endpoints": [here]}],
            "security": {"jwt": [jwt]},
            "observability": {"tracing": {"collector": here, "samplePercent": 0}},
        }
        with envoy_gateway(generate(load_intent(json.dumps(asked)), Target.ENVOY_GATEWAY).documents):
            yield issuer
        server.shutdown()


async def ask(token, further=None):
    headers = (further or {}) | {"x-client-id": "root"} | ({"authorization": f"Bearer {token}"} if token else {})
    async with aiohttp.ClientSession() as session, session.get(URL, headers=headers) as answer:
        return answer.status, await answer.json(content_type=None) if answer.status == 200 else None


@pytest.mark.parametrize(("claims", "status"), [(None, 401), ({"aud": "another"}, 403), ({"aud": "llm", "exp": 1}, 401)])
async def test_nobody_comes_in_without_a_token_that_is_right(issuer, claims, status):
    assert (await ask(issuer.token(sub="alice", **claims) if claims else None))[0] == status


async def test_model_servers_are_told_who_it_is_and_not_by_which_token(issuer):
    status, told = await ask(issuer.token(aud="llm", sub="alice"))
    assert (status, told["x-client-id"]) == (200, "alice")
    assert "authorization" not in told


@pytest.mark.parametrize("sampled", ["01", "00"])
async def test_a_callers_trace_goes_on_as_it_was_decided_whatever_the_request_is_called(issuer, sampled):
    trace_id, caller = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    headers = {"x-request-id": "wagon-7", "traceparent": f"00-{trace_id}-{caller}-{sampled}"}
    _, told = await ask(issuer.token(aud="llm", sub="alice"), headers)
    assert told["x-request-id"] == "wagon-7"
    _, same, span, flags = told["traceparent"].split("-")
    assert (same, flags) == (trace_id, sampled)
    assert span != caller  # the gateway's own is between
