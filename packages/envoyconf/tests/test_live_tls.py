"""TLS to clients on a real Envoy: protocols, client certificates, and certificates that are replaced."""

import asyncio
import contextlib
import ssl

import aiohttp
import pytest
import trustme

from shunter.envoyconf import IntentError
from shunter.envoyconf.core.envoy.dynamic import divide
from shunter.envoyconf.core.envoy.remote import from_control_plane, remote_bootstrap
from shunter.envoyconf.core.output import Settings
from shunter.envoyconf.core.schema import envoy_schema
from shunter.envoyconf.core.xds.files import make_files
from shunter.envoyconf.shell.ads import Server
from shunter.envoyconf.shell.directory import Directory

pytestmark = pytest.mark.envoy


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


@contextlib.asynccontextmanager
async def delivered(way, scene, files):
    """Yield what an Envoy is started with that gets its listener in some way."""
    listener = files.listener(clientCaFile=f"{files.directory}/ca.crt")
    if way == "static":
        yield scene.bootstrap(listeners=[listener])
    elif way == "files":
        directory = Directory(files.directory / "envoy")
        output = make_files(scene.intent(listeners=[listener]), Settings(directory=str(directory.place)))
        await directory.update(output)
        yield output.artefacts[0].documents[0]
    else:
        server = Server(envoy_schema(), lambda: 0.0)
        plane = {"addresses": [f"127.0.0.1:{await server.start('127.0.0.1', 0)}"]}
        intent = scene.intent(listeners=[listener], controlPlane=plane)
        await server.replace(divide(intent, Settings(), from_control_plane))
        yield remote_bootstrap(intent, Settings())
        await server.stop()


@pytest.mark.parametrize("way", ["static", "files", "xds"])
async def test_a_certificate_that_is_replaced_is_shown_where_it_is_a_secret(way, scene, files):
    """In a static bootstrap it stays what it was when Envoy started."""
    client = files.client()
    files.authority.issue_cert("client.example").configure_cert(client)
    async with delivered(way, scene, files) as resource, scene.envoy(resource) as envoy:
        assert await greet(envoy, client) == (None, "one.example")
        files.issue("two.example")
        if way == "static":
            assert await greet(envoy, client) == (None, "one.example")
        else:
            async with asyncio.timeout(20):
                while await greet(envoy, client) != (None, "two.example"):  # noqa: ASYNC110 # Envoy tells nobody
                    await asyncio.sleep(0.05)


def test_an_envoy_needs_files(scene):
    with pytest.raises(IntentError, match=r"http has no tls\.certFile and tls\.keyFile"):
        scene.bootstrap(listeners=[{"tls": {"secret": "certificate"}}])
