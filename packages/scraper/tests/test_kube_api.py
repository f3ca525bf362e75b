"""Who we are, and whom we trust, may change while we run; and nobody waits for another one's watch to end."""

import asyncio
import json
import ssl
import sys

import pytest
import trustme

pytest.importorskip("kubernetes", reason="pip install 'shunter-scraper[kubernetes]'")

from kubernetes.aio.config import incluster_config

from shunter.scraper.errors import ApiError
from shunter.scraper.shell.kube import api as kube
from shunter.scraper.shell.kube.api import RefusedError, connect

PATIENCE_S = 30
OK, UNAUTHORIZED = "HTTP/1.1 200 OK", "HTTP/1.1 401 Unauthorized"


@pytest.fixture(autouse=True)
def _eager(monkeypatch):
    monkeypatch.setattr(kube, "RENEW_S", 0.0)


@pytest.fixture
def kubeconfig(tmp_path):
    """Write a kubeconfig: ``kubeconfig(server, user, **cluster)``."""

    def write(server, user, **cluster):
        sections = {
            "clusters": [{"name": "c", "cluster": {"server": server, **cluster}}],
            "users": [{"name": "u", "user": user}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        }
        path = tmp_path / "config"
        path.write_text(json.dumps({"current-context": "x", **sections}))
        return path

    return write


@pytest.fixture
async def guarded(serve):
    """A server that takes one token."""

    async def answer(writer):
        welcome = f"authorization: bearer {server.token}\r\n".encode() in server.requests[-1].lower()
        writer.write(f"{OK if welcome else UNAUTHORIZED}\r\nContent-Length: 2\r\n\r\n{{}}".encode())

    server = await serve(answer)
    server.token, server.url = "first", f"http://127.0.0.1:{server.port}"
    return server


def plugin(token):
    """A credential plugin that says what is in a file."""
    says = {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential"}
    code = f"import json; print(json.dumps({says} | {{'status': {{'token': open({str(token)!r}).read()}}}}))"
    return {"apiVersion": says["apiVersion"], "command": sys.executable, "args": ["-c", code], "interactiveMode": "Never"}


@pytest.mark.parametrize("user", [lambda token: {"tokenFile": str(token)}, lambda token: {"exec": plugin(token)}])
async def test_a_token_that_is_renewed_in_its_place_is_taken_up_when_the_former_is_refused(guarded, kubeconfig, tmp_path, user):
    token = tmp_path / "token"
    token.write_text("first")
    async with connect(kubeconfig(guarded.url, user(token))) as api:
        assert await api.page("/api/v1/pods") == b"{}"
        guarded.token = "second"
        with pytest.raises(RefusedError, match="401"):
            await api.page("/api/v1/pods")
        token.write_text("second")
        assert await api.page("/api/v1/pods") == b"{}"


async def test_credentials_that_are_refused_are_not_read_all_the_time(guarded, kubeconfig, tmp_path, monkeypatch):
    (tmp_path / "token").write_text("wrong")
    monkeypatch.setattr(kube, "RENEW_S", 3600.0)
    async with connect(kubeconfig(guarded.url, {"tokenFile": str(tmp_path / "token")})) as api:
        with pytest.raises(RefusedError, match="401"):
            await api.page("/api/v1/pods")
        (tmp_path / "token").write_text("first")
        with pytest.raises(RefusedError, match="401"):
            await api.page("/api/v1/pods")


async def serving(authority, port=0):
    """A server with a certificate of this authority's."""

    async def answer(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f"{OK}\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{{}}".encode())
        writer.close()

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return await asyncio.start_server(answer, "127.0.0.1", port, ssl=context)


async def test_another_authority_is_trusted_once_its_certificate_is_in_the_file(kubeconfig, tmp_path):
    former, present = trustme.CA(), trustme.CA()
    former.cert_pem.write_to_path(tmp_path / "ca.pem")
    async with await serving(former) as server:
        port = server.sockets[0].getsockname()[1]
        path = kubeconfig(f"https://127.0.0.1:{port}", {"token": "t"}, **{"certificate-authority": str(tmp_path / "ca.pem")})
        async with connect(path) as api:
            assert await api.page("/api/v1/pods") == b"{}"
            server.close()
            async with await serving(present, port):
                with pytest.raises(ApiError, match="certificate verify failed"):
                    await api.page("/api/v1/pods")
                present.cert_pem.write_to_path(tmp_path / "ca.pem")
                assert await api.page("/api/v1/pods") == b"{}"


async def test_a_token_file_that_is_empty_for_a_moment_is_a_failure_like_others(tmp_path, monkeypatch):
    authority = trustme.CA()
    for name, content in (("TOKEN", "first"), ("CERT", authority.cert_pem.bytes().decode())):
        (tmp_path / name).write_text(content)
        monkeypatch.setattr(incluster_config, f"SERVICE_{name}_FILENAME", str(tmp_path / name))
    async with await serving(authority) as server:
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(server.sockets[0].getsockname()[1]))
        async with connect() as api:
            assert await api.page("/api/v1/pods") == b"{}"
            (tmp_path / "TOKEN").write_text("")
            monkeypatch.setattr(incluster_config.datetime, "datetime", Later)
            with pytest.raises(ApiError, match="Token file exists but empty"):
                await api.page("/api/v1/pods")
            (tmp_path / "TOKEN").write_text("first")
            assert await api.page("/api/v1/pods") == b"{}"


class Later(incluster_config.datetime.datetime):
    """The day after tomorrow."""

    @classmethod
    def now(cls, tz=None):
        return super().now(tz) + incluster_config.datetime.timedelta(days=2)


async def test_hundreds_of_watches_are_open_at_the_same_time(serve, kubeconfig):
    """Nine for each namespace that is followed: a client's pool of a hundred connections is not enough."""

    async def begin(writer):
        writer.write(f"{OK}\r\nTransfer-Encoding: chunked\r\n\r\n".encode())

    server = await serve(begin)
    async with connect(kubeconfig(f"http://127.0.0.1:{server.port}", {"token": "t"})) as api:
        watches = [api.lines(f"/{number}") for number in range(250)]
        async with asyncio.timeout(PATIENCE_S):
            assert [await anext(each) for each in watches] == [b""] * 250
        for each in watches:
            await each.aclose()
