"""Adapters of real servers, kept by the command as a file says."""

import asyncio
import json
import subprocess
import sys
from contextlib import asynccontextmanager

import aiohttp
import pytest
import trustme
from aiohttp import web
from click.testing import CliRunner

from shunter.lab.testing import lab_server
from shunter.rollout.cli import main
from shunter.rollout.core.desired import Adapter, Desired
from shunter.rollout.core.machine import Wish
from shunter.rollout.core.reconcile import Standing
from shunter.rollout.errors import ConfigError, StateError
from shunter.rollout.shell.following import Following, read_file
from shunter.rollout.shell.servers import Access, open_session
from shunter.rollout.shell.store import FileStore
from shunter.rollout.shell.syncing import Sync, Target
from shunter.snapshot import Endpoint, Load, Pool, SnapshotWriter, Topology

WANTED = Desired(wanted=(Adapter("a", "/l/a"), Adapter("b", "/l/b")), unwanted=("old",))


def config(path, *adapters, port=8000, unwanted=()):
    models = [{"id": each, "source": f"/l/{each}"} for each in adapters]
    file = {"port": port, "ensureExist": {"models": models}, "ensureNotExist": {"models": [{"id": each} for each in unwanted]}}
    path.write_text(json.dumps({"vLLMLoRAConfig": file}))
    return path


@pytest.fixture
async def sync():
    """A Sync over real connections; it may be told more."""
    opened = []

    async def sync(access=None, **more):
        session = open_session(access or Access())
        opened.append(session)
        return Sync(await session.__aenter__(), access or Access(), **more)

    yield sync
    for session in opened:
        await session.__aexit__(None, None, None)


@pytest.mark.parametrize("dialect", ["vllm", "sglang"])
async def test_a_server_ends_as_it_should_be_in_its_own_dialect(sync, dialect):
    async with lab_server(dialect=dialect, loras=["old"], max_loras=4) as server:
        syncing = await sync()
        await syncing.look((Target(server.url, dialect),), WANTED)
        assert set(server.models.adapters) == {"a", "b"}
        assert syncing.reports[server.url].settled
        assert syncing.calls == {(server.url, "unload", True): 1, (server.url, "load", True): 2}
        await syncing.look((Target(server.url, dialect),), Desired(wanted=(Adapter("a", "/l/a2"),)))
        assert server.models.cards(0, 1)[-1]["root"] == "/l/a2", "another source is loaded anew"


async def test_a_server_that_forgets_is_told_again(sync):
    async with lab_server(enable_lora=True) as server:
        syncing = await sync()
        await syncing.look((Target(server.url),), WANTED)
        server.models.unload("a")
        await syncing.look((Target(server.url),), WANTED)
        assert set(server.models.adapters) == {"a", "b"}


async def test_a_pool_is_told_all_at_once_and_one_that_is_gone_holds_up_nobody(sync):
    async with lab_server(enable_lora=True) as one, lab_server(enable_lora=True) as other:
        syncing = await sync()
        await syncing.look(tuple(map(Target, (one.url, "http://127.0.0.1:1", other.url))), WANTED)
        assert set(one.models.adapters) == set(other.models.adapters) == {"a", "b"}
        assert "/v1/models: " in syncing.reports["http://127.0.0.1:1"].trouble


async def test_a_dry_run_and_adapters_that_nobody_named(sync):
    async with lab_server(loras=["mine"]) as server:
        await (looking := await sync(dry_run=True)).look((Target(server.url),), WANTED)
        assert looking.reports[server.url].adapters == {
            "a": Standing.MISSING, "b": Standing.MISSING, "old": Standing.ABSENT, "mine": Standing.UNKNOWN,
        }  # fmt: skip
        assert set(server.models.adapters) == {"mine"}
        await (await sync(prune=True)).look((Target(server.url),), WANTED)
        assert set(server.models.adapters) == {"a", "b"}


async def test_an_engine_that_loads_nothing_is_told(sync):
    syncing = await sync()
    await syncing.look((Target("http://127.0.0.1:1", "tgi"),), WANTED)
    assert "'tgi' loads no adapters while it runs" in syncing.reports["http://127.0.0.1:1"].trouble


@asynccontextmanager
async def secret_server(authority):
    """A server behind TLS that wants a token, and is called localhost."""
    import ssl

    listed = []

    async def answer(request):
        if request.headers.get("Authorization") != "Bearer s3cret":
            return web.json_response({"error": {"message": "who are you?"}}, status=401)
        if request.method == "POST":
            listed.append((await request.json())["lora_name"])
        return web.json_response({"data": [{"id": each, "parent": "tiny"} for each in listed]})

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    app = web.Application()
    app.add_routes([web.route("*", "/{path:.*}", answer)])
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    yield f"https://localhost:{runner.addresses[0][1]}", listed
    await runner.cleanup()


async def test_a_token_is_shown_to_a_server_whose_certificate_counts(sync, tmp_path):
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    (tmp_path / "token").write_text("s3cret\n")
    async with secret_server(authority) as (url, listed):
        stranger = await sync(Access(token_file=tmp_path / "token"))
        await stranger.look((Target(url),), WANTED)
        assert "CERTIFICATE_VERIFY_FAILED" in stranger.reports[url].trouble
        nobody = await sync(Access(ca_file=tmp_path / "ca.pem"))
        await nobody.look((Target(url),), WANTED)
        assert nobody.reports[url].trouble == "/v1/models: HTTP 401: who are you?"
        known = await sync(Access(ca_file=tmp_path / "ca.pem", token_file=tmp_path / "token"))
        await known.look((Target(url),), WANTED)
        assert listed == ["a", "b"]


@pytest.fixture
async def running():
    """Start ``shunter rollout sync`` with some arguments, and end it."""
    started = []

    async def running(*arguments):
        command = [sys.executable, "-m", "shunter.rollout", "sync", *map(str, arguments)]
        process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
        started.append(process)
        return process

    yield running
    for process in started:
        if process.returncode is None:
            process.terminate()
        await process.communicate()


async def get(session, url):
    try:
        async with session.get(url) as answer:
            return answer.status, await answer.text()
    except aiohttp.ClientError as error:
        return 0, str(error)


async def test_a_sidecar_follows_its_configmap_and_says_how_everything_stands(running, tmp_path, eventually, unused_tcp_port):
    """The mounted ConfigMap: a link to a directory of versions, which is exchanged."""
    for version, adapters in (("1", ["a"]), ("2", ["a", "b"])):
        (tmp_path / version).mkdir()
        config(tmp_path / version / "configmap.yaml", *adapters)
    (tmp_path / "..data").symlink_to("1")
    (tmp_path / "configmap.yaml").symlink_to("..data/configmap.yaml")
    async with lab_server(enable_lora=True) as server, aiohttp.ClientSession() as session:
        arguments = ("--config", tmp_path / "configmap.yaml", "--server", server.url, "--interval", 0.2)
        process = await running(*arguments, "--status-port", unused_tcp_port)
        url = f"http://127.0.0.1:{unused_tcp_port}"

        async def is_ready():
            return (await get(session, f"{url}/readyz"))[0] == 200

        await eventually(is_ready)
        assert set(server.models.adapters) == {"a"}
        (tmp_path / "new").symlink_to("2")
        (tmp_path / "new").rename(tmp_path / "..data")
        await eventually(lambda: set(server.models.adapters) == {"a", "b"})

        async def metrics():
            _, page = await get(session, f"{url}/metrics")
            return page if 'lora_syncer_adapter_status{adapter_name="b"} 1.0' in page else ""

        assert f'shunter_rollout_adapter_ready{{adapter_name="a",endpoint="{server.url}"}} 1.0' in await eventually(metrics)
        _, status = await get(session, f"{url}/status")
        assert json.loads(status)["endpoints"][server.url]["adapters"] == {"a": "ready", "b": "ready"}

        (tmp_path / "2" / "configmap.yaml").write_text("vLLMLoRAConfig: {prot: 1}")

        async def is_refused():
            return json.loads((await get(session, f"{url}/status"))[1])["configRefused"]

        assert "prot: unknown field; did you mean port?" in await eventually(is_refused)
        assert set(server.models.adapters) == {"a", "b"}, "what was read before stays in force"
        process.terminate()
        await process.communicate()
        assert process.returncode == 0


async def test_a_pool_of_the_snapshot_is_looked_after(tmp_path):
    async with lab_server(enable_lora=True) as mine, lab_server(enable_lora=True) as others:
        writer = SnapshotWriter(tmp_path)
        endpoints = tuple(
            Endpoint(slot=at, incarnation=1, name=f"e{at}", address="127.0.0.1", port=server.port, pools=(at,))
            for at, server in enumerate((mine, others))
        )
        pools = (Pool(name="mine"), Pool(name="others"))
        writer.publish_topology(Topology(epoch=1, generation=1, pools=pools, endpoints=endpoints), 1)
        writer.publish_load(Load.of([], epoch=1, topology_generation=1))
        arguments = ["sync", "--config", config(tmp_path / "c.yaml", "a"), "--snapshot", tmp_path, "--pool", "mine", "--once"]
        result = await asyncio.to_thread(CliRunner().invoke, main, [*map(str, arguments)])
        assert (result.exit_code, result.output) == (0, f"{mine.url}: a ready\n")
        assert not others.models.adapters
        arguments[arguments.index("mine")] = "nobodys"
        result = await asyncio.to_thread(CliRunner().invoke, main, [*map(str, arguments)])
        assert (result.exit_code, "there are: default/mine, default/others" in result.output) == (2, True)
        writer.close()


async def test_where_nobody_publishes_that_is_said(tmp_path):
    arguments = ["sync", "--config", config(tmp_path / "c.yaml", "a"), "--snapshot", tmp_path, "--once"]
    result = await asyncio.to_thread(CliRunner().invoke, main, [*map(str, arguments)])
    assert result.exit_code == 2
    assert f"{tmp_path}/topology.ring: does not exist; is the scraper running" in result.output


def test_one_look_says_once_why_a_server_cannot_be_had(tmp_path, unused_tcp_port):
    server = f"http://127.0.0.1:{unused_tcp_port}"
    command = [sys.executable, "-m", "shunter.rollout", "sync", "--once", "--server", server]
    done = subprocess.run([*command, "--config", config(tmp_path / "c.yaml", "a")], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (1, f"{server}: /v1/models: connection refused\n", "")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["sync", "--config", "nowhere.yaml"], "nowhere.yaml: No such file or directory"),
        (["sync", "--server", "http://a", "--snapshot", "b"], "give one of them"),
        (
            ["sync", "--server", "127.0.0.1:8000"],
            "--server: 127.0.0.1:8000: no URL of a server; it is such as http://127.0.0.1:9090",
        ),
        (["sync", "--server", "http://[::1"], "--server: http://[::1: Invalid IPv6 URL"),
        (["sync", "--engine", "vlm"], "loads no adapters while it runs, as far as is known; did you mean vllm?"),
        (["sync", "--pool", "p"], "--pool is only for --snapshot"),
        (["start", "-f", "nowhere.yaml"], "nowhere.yaml: No such file or directory"),
        (["status", "nobody"], "no rollout is called nobody"),
        (["resume", "nobody"], "no rollout is called nobody"),
    ],
)
def test_what_cannot_be_used_is_told_without_a_traceback(tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    result = CliRunner().invoke(main, arguments)
    assert (result.exit_code, words in result.output) == (2, True), result.output


def test_a_record_that_is_none_is_told(tmp_path):
    (tmp_path / "r.json").write_text("{")
    result = CliRunner().invoke(main, ["status", "r", "--state", str(tmp_path)])
    assert (result.exit_code, "not a rollout's record" in result.output) == (2, True)


def test_files_that_cannot_be_opened_or_written_are_told(tmp_path):
    (tmp_path / "r.lock").mkdir()
    (tmp_path / "r.wish").mkdir()
    store = FileStore(tmp_path, "r")
    for doing, words in (
        (store.held, r"r\.lock: cannot be opened"),
        (lambda: store.want(Wish.RUN), r"r\.wish: cannot be written"),
    ):
        with pytest.raises(StateError, match=words):
            doing()


def test_two_cannot_be_at_the_same_rollout(tmp_path):
    store = FileStore(tmp_path, "r")
    with store.at_it() as alone, FileStore(tmp_path, "r").at_it() as second:
        assert (alone, second) == (True, False)
    with store.at_it() as again:
        assert again


def test_a_file_is_read_when_it_is_still(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(b"1")
    following = Following(path, lambda _, text: int(text))
    for half in (b"20", b"200", b"2000"):
        path.write_bytes(half)
        assert (following.poll(), following.content) == (False, 1)
    assert (following.poll(), following.content) == (True, 2000)


def test_a_file_that_vanishes_leaves_what_it_said(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(b"1")
    following = Following(path, lambda _, text: int(text))
    assert (following.poll(), following.content) == (False, 1)
    path.unlink()
    assert (following.poll(), following.poll(), following.content) == (False, True, 1)
    assert "No such file" in following.trouble
    with pytest.raises(ConfigError, match="No such file"):
        read_file(path)
