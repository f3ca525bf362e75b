"""TLS on both transports: who is let in, what is said of files that are of no use, and files that change while we serve."""

import asyncio
import datetime as dt
import re
import ssl
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import grpc
import grpc.aio
import pytest
import trustme
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from envoy.service.ext_proc.v3 import external_processor_pb2 as pb
from envoy.service.ext_proc.v3 import external_processor_pb2_grpc as pb_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from hypothesis import given
from hypothesis import strategies as st

from shunter.picker.cli import main
from shunter.picker.core.limits import Budget, Limits
from shunter.picker.core.session import Session
from shunter.picker.errors import ConfigError
from shunter.picker.shell.metrics import process_samples
from shunter.picker.shell.report import WorkerReport
from shunter.picker.testing import StubJudge
from shunter.picker.transport import native as native_transport
from shunter.picker.transport.grpcio import GrpcServer
from shunter.picker.transport.health import Health
from shunter.picker.transport.native import NativeServer
from shunter.picker.transport.tls import EXPIRY_S, Identity, Tls

NAME = "picker.example"
DEADLINE_S = 20


class Files:
    """What lies in a directory, as a mounted secret does."""

    def __init__(self, directory, client_ca=None):
        self.ca, self.client_ca = trustme.CA(), client_ca
        self.tls = Tls(directory / "tls.crt", directory / "tls.key", directory / "ca.crt" if client_ca else None)
        self.issue()
        if client_ca:
            client_ca.cert_pem.write_to_path(self.tls.client_ca)

    def issue(self, **fields):
        issued = self.ca.issue_cert(NAME, **fields)
        self.tls.cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        issued.private_key_pem.write_to_path(self.tls.key)
        return issued


@pytest.fixture
def files(tmp_path):
    return Files(tmp_path)


@pytest.fixture
def mutual(tmp_path):
    return Files(tmp_path, client_ca=trustme.CA())


@pytest.fixture(params=[NativeServer, GrpcServer], ids=["native", "grpcio"])
def running(request):
    @asynccontextmanager
    async def running(tls, health_port=None):
        limits = Limits()
        budget = Budget(limits.buffered_bytes)
        server = request.param(lambda: Session(StubJudge(), limits, budget), Health(), limits, tls=tls)
        server.port = await server.start("127.0.0.1", 0, health_port)
        try:
            yield server
        finally:
            await server.stop()

    return running


def open_channel(port, ca, client=None):
    """Connect as a gateway would that trusts ``ca`` and shows the certificate ``client``."""
    chain = client and b"".join(blob.bytes() for blob in client.cert_chain_pems)
    credentials = grpc.ssl_channel_credentials(ca.cert_pem.bytes(), client and client.private_key_pem.bytes(), chain)
    return grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials, [("grpc.ssl_target_name_override", NAME)])


async def is_alive(port, ca, client=None):
    """Ask for liveness."""
    async with open_channel(port, ca, client) as channel:
        try:
            stub = health_pb2_grpc.HealthStub(channel)
            await stub.Check(health_pb2.HealthCheckRequest(service="liveness"), timeout=DEADLINE_S)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
            return False
    return True


async def test_who_trusts_the_ca_is_served_and_who_does_not_leaves(running, files):
    async with running(files.tls) as server:
        assert await is_alive(server.port, files.ca)
        assert not await is_alive(server.port, trustme.CA())


async def test_large_bodies_pass_both_ways(running, files):
    body = bytes(range(256)) * 8192  # 2 MiB: more than any window or buffer holds
    messages = (
        pb.ProcessingRequest(request_headers=pb.HttpHeaders()),
        pb.ProcessingRequest(request_body={"body": body, "end_of_stream": True}),
    )

    async def echo(channel):
        call = pb_grpc.ExternalProcessorStub(channel).Process()
        for message in messages:
            await call.write(message)
        assert (await call.read()).WhichOneof("response") == "request_headers"
        echoed = b""
        while len(echoed) < len(body):
            echoed += (await call.read()).request_body.response.body_mutation.streamed_response.body
        return echoed

    async with running(files.tls) as server, open_channel(server.port, files.ca) as channel:
        assert set(await asyncio.gather(*(echo(channel) for _ in range(4)))) == {body}


async def test_with_a_client_ca_only_its_clients_are_let_in(running, mutual):
    async with running(mutual.tls) as server:
        assert await is_alive(server.port, mutual.ca, mutual.client_ca.issue_cert("gateway"))
        assert not await is_alive(server.port, mutual.ca)
        assert not await is_alive(server.port, mutual.ca, trustme.CA().issue_cert("gateway"))


async def test_new_connections_get_new_files_and_a_new_client_ca(running, mutual):
    async with running(mutual.tls) as server:
        old_ca, old_client = mutual.ca, mutual.client_ca.issue_cert("gateway")
        assert await is_alive(server.port, old_ca, old_client)
        mutual.ca, mutual.client_ca = trustme.CA(), trustme.CA()
        mutual.issue()
        mutual.client_ca.cert_pem.write_to_path(mutual.tls.client_ca)
        server._sweep()
        assert await is_alive(server.port, mutual.ca, mutual.client_ca.issue_cert("gateway"))
        assert not await is_alive(server.port, old_ca, mutual.client_ca.issue_cert("gateway"))
        assert not await is_alive(server.port, mutual.ca, old_client)


async def test_probes_find_health_and_nothing_else_without_tls(running, mutual, unused_tcp_port):
    async with (
        running(mutual.tls, health_port=unused_tcp_port),
        grpc.aio.insecure_channel(f"127.0.0.1:{unused_tcp_port}") as channel,
    ):
        answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service="liveness"))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        call = channel.stream_stream("/envoy.service.ext_proc.v3.ExternalProcessor/Process")()
        assert await call.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--tls-cert-file", "tls.crt"], "TLS needs both --tls-cert-file and --tls-key-file"),
        (["--tls-client-ca-file", "ca.crt"], "TLS needs both --tls-cert-file and --tls-key-file"),
        (
            ["--tls-cert-file", "absent.crt", "--tls-key-file", "absent.key"],
            "the certificate absent.crt cannot be read: No such file",
        ),
    ],
)
def test_what_is_missing_on_the_command_line_is_named(tmp_path, arguments, complaint):
    ports = ["--port", "0", "--health-port", "0", "--admin-port", "0"]
    result = CliRunner().invoke(main, ["run", "--snapshot", str(tmp_path), *ports, *arguments])
    assert result.exit_code == 2
    assert complaint in result.output


# -- what only the native transport has to see to ----------------------------------------------------------------------------


@asynccontextmanager
async def connected(port, ca, alpn, version=None, ciphers=None):
    context = ssl.create_default_context()
    ca.configure_trust(context)
    context.set_alpn_protocols(alpn)
    if version:
        context.minimum_version = context.maximum_version = version
    if ciphers:
        context.set_ciphers(ciphers)
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=NAME)
    try:
        async with asyncio.timeout(DEADLINE_S):
            yield reader, writer
    finally:
        writer.close()
        with suppress(ConnectionError, ssl.SSLError):
            await writer.wait_closed()


@asynccontextmanager
async def native(tls, **fields):
    server = NativeServer(lambda: None, Health(), Limits(), tls=tls, **fields)
    server.port = await server.start("127.0.0.1", 0)
    try:
        yield server
    finally:
        await server.stop()


async def read_end(reader):
    """Read to the end, by whichever means it comes."""
    with suppress(ConnectionError, ssl.SSLError):
        return await reader.read()


@pytest.mark.parametrize("alpn", [[], ["http/1.1"]])
async def test_a_client_that_does_not_offer_http_2_is_cut_off_and_named(files, alpn, caplog):
    async with native(files.tls) as server, connected(server.port, files.ca, alpn) as (reader, _):
        assert not await read_end(reader)
    assert "it does not offer HTTP/2 (ALPN h2)" in caplog.text


async def test_tls_1_2_is_spoken_and_tls_1_1_is_not(files):
    async with native(files.tls) as server:
        async with connected(server.port, files.ca, ["h2"], ssl.TLSVersion.TLSv1_2) as (_, writer):
            assert writer.get_extra_info("ssl_object").version() == "TLSv1.2"
        assert server._identity.door.minimum_version is ssl.TLSVersion.TLSv1_2


async def test_ciphers_that_http_2_forbids_are_not_spoken(files):
    async with native(files.tls) as server:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            async with connected(
                server.port, files.ca, ["h2"], ssl.TLSVersion.TLSv1_2, "ECDHE-RSA-AES128-SHA:ECDHE-ECDSA-AES128-SHA"
            ):
                pass


async def test_a_peer_that_breaks_the_protocol_reads_why_before_the_end(files):
    async with native(files.tls) as server, connected(server.port, files.ca, ["h2"]) as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\n\r\n" * 1000)
        assert b"not the preface of HTTP/2" in await read_end(reader)


@pytest.mark.parametrize("by_name", [False, True])
async def test_who_does_not_shake_hands_is_cut_off(files, tmp_path, by_name, monkeypatch):
    monkeypatch.setattr(native_transport, "GREETING_S", 0.1)
    server, path = NativeServer(lambda: None, Health(), Limits(), tls=files.tls), tmp_path / "picker.sock"
    port = await server.start(f"unix:{path}" if by_name else "127.0.0.1", 0)
    reader, writer = await (asyncio.open_unix_connection(path) if by_name else asyncio.open_connection("127.0.0.1", port))
    try:
        async with asyncio.timeout(DEADLINE_S):
            assert not await read_end(reader)
    finally:
        writer.transport.abort()
        await server.stop()


# -- the files ---------------------------------------------------------------------------------------------------------------


def encrypted(key):
    """Return the key as people keep it who fear for it."""
    loaded = serialization.load_pem_private_key(key, None)
    form = serialization.PrivateFormat.PKCS8
    return loaded.private_bytes(serialization.Encoding.PEM, form, serialization.BestAvailableEncryption(b"secret"))


def damage(tls, how):
    if how == "cert missing":
        tls.cert.unlink()
    elif how == "key missing":
        tls.key.unlink()
    elif how == "cert no PEM":
        tls.cert.write_bytes(b"\x30\x82\x03")
    elif how == "key no PEM":
        tls.key.write_text("hush")
    elif how == "CA no PEM":
        tls.client_ca.write_text("")
    elif how == "other key":
        trustme.CA().issue_cert(NAME).private_key_pem.write_to_path(tls.key)
    elif how == "key encrypted":
        tls.key.write_bytes(encrypted(tls.key.read_bytes()))
    elif how == "cert cut":
        tls.cert.write_bytes(tls.cert.read_bytes()[:200])
    elif how == "CA cut":
        tls.client_ca.write_bytes(tls.client_ca.read_bytes()[:200])
    elif how == "cert is a directory":
        tls.cert.unlink()
        tls.cert.mkdir()


DAMAGES = {
    "cert missing": r"the certificate .*tls\.crt cannot be read: No such file",
    "key missing": r"the key .*tls\.key cannot be read: No such file",
    "cert no PEM": r"tls\.crt is no certificate in PEM form",
    "key no PEM": r"tls\.key is no key in PEM form",
    "CA no PEM": r"ca\.crt is no CA for clients in PEM form",
    "other key": r"tls\.key is not the key of the certificate .*tls\.crt: give the pair",
    "key encrypted": r"the key .*tls\.key is encrypted: store it without a password",
    "cert cut": r"tls\.crt with .*tls\.key cannot be used: ",
    "CA cut": r"ca\.crt cannot be used as the CA for clients: ",
    "cert is a directory": r"tls\.crt cannot be read: Is a directory",
}


@pytest.mark.parametrize("how", DAMAGES)
def test_files_of_no_use_are_named_at_the_start(mutual, how):
    damage(mutual.tls, how)
    with pytest.raises(ConfigError, match=DAMAGES[how]):
        Identity(mutual.tls)


@pytest.mark.parametrize("how", DAMAGES)
def test_files_of_no_use_are_named_once_and_the_old_ones_kept(mutual, how, caplog):
    identity = Identity(mutual.tls)
    material = identity.material
    damage(mutual.tls, how)
    for _ in range(3):
        identity.refresh()
    assert identity.material is material
    (record,) = caplog.records
    assert re.search(DAMAGES[how], record.getMessage())
    if mutual.tls.cert.is_dir():
        mutual.tls.cert.rmdir()
    mutual.issue()
    mutual.client_ca.cert_pem.write_to_path(mutual.tls.client_ca)
    identity.refresh()
    assert identity.material is not material


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return Files(tmp_path_factory.mktemp("whole"), client_ca=trustme.CA())


@given(
    which=st.sampled_from(["cert", "key", "client_ca"]),
    at=st.floats(0, 1),
    length=st.integers(0, 40),
    put=st.binary(max_size=40),
)
def test_whatever_is_in_the_files_they_are_used_or_refused_in_words(whole, which, at, length, put):
    path = getattr(whole.tls, which)
    good = path.read_bytes()
    start = round(at * len(good))
    path.write_bytes(good[:start] + put + good[start + length :])
    complaint = None
    try:
        Identity(whole.tls)
    except ConfigError as error:
        complaint = str(error)
    finally:
        path.write_bytes(good)
    assert complaint is None or str(path) in complaint


def test_a_certificate_for_clients_is_none_for_a_server(files):
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, NAME)])
    day = dt.timedelta(days=1)
    now = dt.datetime.now(dt.UTC)
    cert = x509.CertificateBuilder(name, name, key.public_key(), 1, now - day, now + day)
    cert = cert.add_extension(x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
    files.tls.cert.write_bytes(cert.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    files.tls.key.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain))
    with pytest.raises(ConfigError, match=r"no client would accept the certificate .*purpose"):
        Identity(files.tls)


def test_files_that_go_while_they_are_read_are_of_no_use_either(files, monkeypatch, caplog):
    identity = Identity(files.tls)
    material = identity.material
    files.issue()
    read = Path.read_bytes

    def read_last(path):
        content = read(path)
        path.unlink()
        return content

    with monkeypatch.context() as patches:
        patches.setattr(Path, "read_bytes", read_last)
        identity.refresh()
    assert identity.material is material
    assert "tls.crt" in caplog.text
    files.issue()
    identity.refresh()
    assert identity.material is not material


def test_a_secret_that_is_swapped_as_kubernetes_does_is_seen(tmp_path):
    first, second = tmp_path / "..first", tmp_path / "..second"
    for directory in (first, second):
        directory.mkdir()
        Files(directory)
    (tmp_path / "..data").symlink_to(first)
    for name in ("tls.crt", "tls.key"):
        (tmp_path / name).symlink_to(f"..data/{name}")
    identity = Identity(Tls(tmp_path / "tls.crt", tmp_path / "tls.key"))
    assert identity.material.cert == (first / "tls.crt").read_bytes()
    (tmp_path / "..data_tmp").symlink_to(second)
    (tmp_path / "..data_tmp").rename(tmp_path / "..data")
    identity.refresh()
    assert identity.material.cert == (second / "tls.crt").read_bytes()


def test_it_is_said_once_that_a_certificate_expires_soon_and_once_that_it_has(files, caplog):
    expires = dt.datetime.now(dt.UTC).replace(microsecond=0) + dt.timedelta(days=30)
    files.issue(not_after=expires)
    now_s = expires.timestamp() - EXPIRY_S - 1
    identity = Identity(files.tls, clock=lambda: now_s)
    assert not caplog.records
    for passed_s, said in ((2, 1), (1, 1), (EXPIRY_S, 2), (1, 2)):
        now_s += passed_s
        identity.refresh()
        assert len(caplog.records) == said
    assert "expires within a week" in caplog.text
    assert "has expired" in caplog.text


def test_a_certificate_that_has_expired_is_used_with_a_warning(files, caplog):
    past = dt.datetime.now(dt.UTC) - dt.timedelta(days=1)
    files.issue(not_before=past - dt.timedelta(days=1), not_after=past)
    Identity(files.tls)
    assert "has expired" in caplog.text


def test_the_expiry_is_a_metric_of_each_worker_that_has_one():
    common = {"address": "127.0.0.1:9002", "pid": 0, "seat": 0, "life": 1, "ready": True, "hindrances": (), "streams": 0}
    reports = [
        WorkerReport(worker=worker, restarts={}, certificate_expires_s=expires_s, **common)
        for worker, expires_s in (("0", 2e9), ("1", None))
    ]
    (shown,) = [each for each in process_samples(reports) if "certificate" in each.family.name]
    assert shown.values == {("0",): 2e9}
