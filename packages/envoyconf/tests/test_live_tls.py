"""TLS to clients on a real Envoy: protocols, client certificates, and certificates that are replaced."""

import asyncio
import json
import ssl

import aiohttp
import pytest
import trustme

from shunter.envoyconf import IntentError

pytestmark = pytest.mark.envoy

SECRET = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"


class Files:
    """A CA, and a directory in which certificates of its are replaced as careful programs do it."""

    def __init__(self, directory):
        self.directory, self.authority = directory, trustme.CA()
        self.authority.cert_pem.write_to_path(directory / "ca.crt")
        self.issue("one.example")

    def issue(self, name):
        issued = self.authority.issue_cert(name)
        for file, blob in (("tls.crt", issued.cert_chain_pems[0]), ("tls.key", issued.private_key_pem)):
            blob.write_to_path(self.directory / f"{file}.new")
            (self.directory / f"{file}.new").rename(self.directory / file)

    def listener(self, **fields):
        shown = {"certFile": f"{self.directory}/tls.crt", "keyFile": f"{self.directory}/tls.key"}
        return {"port": 0, "tls": shown | fields}

    def client(self, *protocols):
        context = ssl.create_default_context()
        context.check_hostname = False
        self.authority.configure_trust(context)
        if protocols:
            context.set_alpn_protocols(protocols)
        return context


@pytest.fixture
def files(tmp_path):
    return Files(tmp_path)


async def greet(envoy, context):
    """Return which protocol was agreed on, and for whom the certificate is."""
    host, port = envoy.listeners["http"].split(":")
    _, writer = await asyncio.open_connection(host, int(port), ssl=context)
    socket = writer.get_extra_info("ssl_object")
    agreed, ((_, name),) = socket.selected_alpn_protocol(), socket.getpeercert()["subjectAltName"]
    writer.transport.abort()
    return agreed, name


async def test_clients_get_the_protocol_they_speak(scene, files):
    scene.pickers[0].pick = scene.upstreams[0].authority
    async with scene.envoy(scene.bootstrap(listeners=[files.listener()])) as envoy:
        assert await greet(envoy, files.client("h2", "http/1.1")) == ("h2", "one.example")
        assert await greet(envoy, files.client("http/1.1")) == ("http/1.1", "one.example")
        url = f"https://{envoy.listeners['http']}/v1/models"
        async with scene.client.get(url, ssl=files.client()) as answer:
            assert (answer.status, await answer.text()) == (200, scene.upstreams[0].authority)


async def test_who_has_no_certificate_of_the_clients_ca_is_sent_away(scene, files):
    resource = scene.bootstrap(listeners=[files.listener(clientCaFile=f"{files.directory}/ca.crt")])
    async with scene.envoy(resource) as envoy:
        url = f"https://{envoy.listeners['http']}/"
        known, stranger, foreign = files.client(), files.client(), files.client()
        files.authority.issue_cert("client.example").configure_cert(known)
        trustme.CA().issue_cert("client.example").configure_cert(foreign)
        async with scene.client.get(url, ssl=known) as answer:
            assert answer.status == 200
        for context in (stranger, foreign):
            with pytest.raises(aiohttp.ClientError):
                await scene.client.get(url, ssl=context)
    assert sum(len(each.requests) for each in scene.upstreams) == 1


async def test_a_certificate_that_is_a_secret_is_replaced_under_way(scene, files):
    """And one that is not stays what it was when Envoy started."""
    resource = scene.bootstrap(listeners=[files.listener() | {"name": "http"}, files.listener() | {"name": "static"}])
    resource["node"] = {"id": "test", "cluster": "test"}
    common = resource["static_resources"]["listeners"][0]["filter_chains"][0]["transport_socket"]["typed_config"]
    (certificate,) = common["common_tls_context"].pop("tls_certificates")
    secret = files.directory / "secret.json"
    secret.write_text(json.dumps({"resources": [{"@type": SECRET, "name": "http", "tls_certificate": certificate}]}))
    common["common_tls_context"]["tls_certificate_sds_secret_configs"] = [
        {"name": "http", "sds_config": {"path_config_source": {"path": str(secret)}}}
    ]
    async with scene.envoy(resource) as envoy:
        assert await greet(envoy, files.client()) == (None, "one.example")
        files.issue("two.example")
        async with asyncio.timeout(20):
            while await greet(envoy, files.client()) != (None, "two.example"):  # noqa: ASYNC110 # Envoy tells nobody
                await asyncio.sleep(0.05)
        envoy.listeners["http"] = envoy.listeners["static"]
        assert await greet(envoy, files.client()) == (None, "one.example")


def test_an_envoy_needs_files(scene):
    with pytest.raises(IntentError, match=r"listener http: tls\.certFile and tls\.keyFile are missing"):
        scene.bootstrap(listeners=[{"tls": {"secret": "certificate"}}])
