"""``up``: start everything in order, wait until a request really succeeds, watch, and end everything again."""

import contextlib
import http.client
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import click
import msgspec

from shunter.envoyconf.core.envoy.bootstrap import bootstrap
from shunter.envoyconf.core.forms import as_files
from shunter.envoyconf.core.generate import generate
from shunter.envoyconf.core.output import Settings
from shunter.envoyconf.core.reading import load_intent
from shunter.envoyconf.core.render import render
from shunter.envoyconf.core.targets import Target
from shunter.envoyconf.errors import EnvoyconfError
from shunter.envoyconf.shell import envoy
from shunter.envoyconf.shell.texts import write_texts
from shunter.picker.config import read_builtin
from shunter.picker.core.rules import rules
from shunter.scraper.core.assembly import assemble
from shunter.scraper.core.documents import read_documents
from shunter.scraper.errors import ConfigError
from shunter.snapshot import SnapshotError, runtime_directory
from shunter.stack.core import plan as plans
from shunter.stack.core.fleet import table
from shunter.stack.core.plan import Engine, Plan, Ports
from shunter.stack.errors import StackError
from shunter.stack.llamacpp import INSTALL_HINT
from shunter.stack.shell import ports, state, web
from shunter.stack.shell.children import Child, end
from shunter.stack.shell.top import Screen, fetch_complaints, fetch_fleet
from shunter.stack.traces import FILE, OLDER

__all__ = ["Wishes", "place", "run"]

# An engine loads its model, Envoy its configuration: half a minute is slow even on two busy cores.
READY_S = 60.0
POLL_S = 0.05
# The parts that hold no requests of their own are started again when they die, as a kubelet would; not in a tight loop.
REVIVED = ("scraper", "picker", "control-plane", "traces", "jaeger", "prometheus")
REVIVE_AFTER_S = 0.5
YOUNG_S = 5.0
ENDINGS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
# Whose ports nobody needs to know.
_TRACERS = ("otlp_grpc", "otlp_http", "jaeger_otlp", "jaeger")
LAB_MODEL = "lab/llama-3-8b"
# Of a picture, as many as LLaVA's.
MEDIA_TOKENS = 576
# What encoders leave for others, in the stack's directory.
ENCODINGS = "encodings"
LLAMACPP_MODEL = "tiny"


class Wishes(msgspec.Struct, frozen=True):
    """What was asked for on the command line."""

    name: str
    engine: str
    count: int
    backends: tuple[str, ...]
    dialect: str
    profile: str
    port: int
    picker_port: int
    workers: int
    collector_port: int
    health_port: int
    admin_port: int
    scraper_port: int
    envoy_admin_port: int
    engine_port: int
    speed: float
    any_port: bool
    once: bool
    disaggregated: bool = False
    encoders: int = 0
    sockets: bool = False
    config: Path | None = None
    manifests: Path | None = None
    shadow_config: Path | None = None
    picker_options: tuple[str, ...] = ()
    sidecar_options: tuple[str, ...] = ()
    traces: bool = False
    prometheus: bool = False


def run(wishes: Wishes) -> int:
    """Bring the stack up, show it until interrupted, bring it down; return the exit code. Raises StackError."""
    if wishes.prometheus and not _find("prometheus"):
        raise StackError("--prometheus: no prometheus on PATH; install your system's package (Debian: apt install prometheus)")
    for ending in ENDINGS:
        if ending is not signal.SIGHUP or signal.getsignal(ending) is not signal.SIG_IGN:  # nohup means it
            signal.signal(ending, _interrupt)  # a shell starts background jobs with SIGINT ignored
    try:
        directory = runtime_directory(wishes.name)
    except SnapshotError as error:
        raise StackError(str(error)) from error
    with (
        contextlib.suppress(KeyboardInterrupt),
        state.hold(wishes.name, directory),
        contextlib.ExitStack() as held,
        _Stack(wishes.name, _plan(wishes, directory, held)) as stack,
    ):
        stack.start()
        stack.watch(once=wishes.once)
    return 0


def _find(*names: str) -> str:
    """Return the first of these programs that is in the tools directory or on PATH; "" if none is here."""
    tools = envoy.tools_dir()
    directories = os.pathsep.join([str(tools / "bin"), str(tools / "debian" / "usr" / "bin"), os.environ.get("PATH", "")])
    return next((found for name in names if (found := shutil.which(name, path=directories))), "")


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _plan(wishes: Wishes, directory: Path, held: contextlib.ExitStack) -> Plan:
    wanted = {
        "--port": wishes.port,
        "--health-port": wishes.health_port,
        "--admin-port": wishes.admin_port,
        "--envoy-admin-port": wishes.envoy_admin_port,
        "--collector-port": wishes.collector_port,
        "--scraper-port": wishes.scraper_port,
    }
    upward = {f"--picker-port + {n}": wishes.picker_port + n if wishes.picker_port else 0 for n in range(wishes.workers + 1)}
    upward = {option: port for option, port in upward.items() if not port or port != wishes.health_port}
    wanted |= dict(list(upward.items())[: wishes.workers])
    watchers = [*(_TRACERS if wishes.traces else ()), *(("prometheus",) if wishes.prometheus else ())]
    if not wishes.backends:
        wanted |= {f"--engine-port + {n}": wishes.engine_port + n if wishes.engine_port else 0 for n in range(_servers(wishes))}
    wanted = dict.fromkeys(watchers, 0) | (dict.fromkeys(wanted, 0) if wishes.any_port else wanted)
    free = list(ports.claim(wanted, held).values())
    watched, free = dict(zip(watchers, free, strict=False)), free[len(watchers) :]
    gateway, health, admin, envoy_admin, collector, scraper, *more = free
    pickers, for_engines = more[: wishes.workers], more[wishes.workers :]
    if wishes.backends:
        engines, model = _backends(wishes)
    elif wishes.disaggregated:
        engines, model = _stages(wishes, for_engines, directory), LAB_MODEL
    else:
        engines, model = _engines(wishes, for_engines, directory)
    plan = Plan(
        directory=str(directory),
        profile=wishes.profile,
        model=model,
        ports=Ports(
            gateway=gateway,
            picker=tuple(pickers),
            health=health,
            admin=admin,
            collector=collector,
            envoy_admin=envoy_admin,
            scraper=scraper,
            **watched,
        ),
        engines=engines,
        sockets=wishes.sockets,
        config=_stages_config(wishes) if wishes.disaggregated and wishes.config is None else _read(wishes.config),
        queue_s=_longest_queue_s(wishes.config),
        manifests=_read(wishes.manifests),
        shadow=_read(wishes.shadow_config),
        picker_options=wishes.picker_options,
        originals=_originals({plans.CONFIG: wishes.config, plans.MANIFESTS: wishes.manifests}),
    )
    _check_cluster(plan, wishes.manifests)
    return plan


def _check_cluster(plan: Plan, manifests: Path | None) -> None:
    """Raise StackError for what the scraper would not accept; it reads a copy, but the user's file is named."""
    texts = {"endpoints.yaml": plans.endpoints_file(plan)} | ({str(manifests): plan.manifests} if plan.manifests else {})
    try:
        assemble(document for name, text in texts.items() for document in read_documents(name, text))
    except ConfigError as error:
        raise StackError(str(error)) from error


def _servers(wishes: Wishes) -> int:
    """How many ports the engines need: each that decodes has two, its sidecar's and its own."""
    return wishes.count * 3 + wishes.encoders if wishes.disaggregated else wishes.count


def _stages_config(wishes: Wishes) -> bytes:
    return plans.stages_config(encode=wishes.encoders > 0)


def _stages(wishes: Wishes, free: list[int], directory: Path) -> tuple[Engine, ...]:
    """As many engines that prefill as engines that decode, these with a sidecar each; and those that encode, if any."""
    count = wishes.count
    serve = ("-m", "shunter.lab", "serve", "--model", LAB_MODEL, "--speed", str(wishes.speed))
    serve += ("--enable-prompt-tokens-details", "--admin")
    sidecar = ("-m", "shunter.lab", "sidecar", "--snapshot", str(directory), *wishes.sidecar_options)
    if wishes.encoders:
        serve += ("--media-tokens", str(MEDIA_TOKENS), "--ec-storage", str(directory / ENCODINGS))
        sidecar += ("--ec-connector", "ec-example")

    def engine(role: str, n: int, port: int, behind: int | None = None) -> Engine:
        name, own = f"{role}-{n}", ("--port", str(port))
        if role == "encode":
            own += ("--mm-encoder-only",)
        if behind is None:
            return Engine(name=name, address=plans.LOOPBACK, port=port, dialect="vllm", role=role, argv=(*serve, *own))
        argv = (*sidecar, *own, "--model-server-port", str(behind))
        server = (*serve, "--port", str(behind))
        return Engine(name=name, address=plans.LOOPBACK, port=port, dialect="vllm", role=role, argv=argv, behind=server)

    prefill = [engine("prefill", n, port) for n, port in enumerate(free[:count])]
    pairs = zip(free[count : 2 * count], free[2 * count : 3 * count], strict=True)
    encode = (engine("encode", n, port) for n, port in enumerate(free[3 * count :]))
    return (*prefill, *(engine("decode", n, port, behind) for n, (port, behind) in enumerate(pairs)), *encode)


def _read(file: Path | None) -> bytes:
    try:
        return file.read_bytes() if file is not None else b""
    except OSError as error:
        raise StackError(f"{file}: {error.strerror or error}") from error


def _originals(files: dict[str, Path | None]) -> dict[str, str]:
    """Return where those of the user's files are that can change; a pipe is read but once."""
    return {name: str(file.absolute()) for name, file in files.items() if file is not None and file.is_file()}


def place(file: Path, content: bytes, original: str | None) -> None:
    """Put a file where its reader looks: a link to the user's own, if there is one, so that an edit of that is seen."""
    file.unlink(missing_ok=True)  # through a link of another run we would write into somebody's file
    if original is None:
        file.write_bytes(content)
    else:
        file.symlink_to(original)


def _longest_queue_s(file: Path | None) -> float:
    """Return how long a picker with this configuration may let a request wait."""
    if file is None:
        return 0.0
    from shunter.picker import config  # noqa: PLC0415  a fifth of a second, and seldom needed
    from shunter.picker.errors import PickerError  # noqa: PLC0415  as above

    try:
        flow = config.load(_read(file)).policy.flow
    except PickerError as error:
        raise StackError(f"{file}: {error}") from error
    return flow.longest_s if flow is not None else 0.0


def _engines(wishes: Wishes, free: list[int], directory: Path) -> tuple[tuple[Engine, ...], str]:
    if wishes.engine == "llamacpp":
        model, dialect = LLAMACPP_MODEL, "llama.cpp"
        command = ("-m", "shunter.stack.llamacpp", "--gguf", str(_gguf(directory)), "--model-name", model)
    else:
        model, dialect = LAB_MODEL, "vllm"
        options = ("--enable-lora", "--enable-prompt-tokens-details", "--admin", "--speed", str(wishes.speed))
        command = ("-m", "shunter.lab", "serve", "--model", model, *options)
    engines = tuple(
        Engine(name=f"engine-{n}", address=plans.LOOPBACK, port=port, dialect=dialect, argv=(*command, "--port", str(port)))
        for n, port in enumerate(free)
    )
    return engines, model


def _gguf(directory: Path) -> Path:
    try:
        from shunter.stack.llamacpp.gguf import write_model  # noqa: PLC0415  numpy and gguf are an optional extra
    except ImportError as error:
        raise StackError(f"--engine llamacpp needs packages that are not installed ({error.name}): {INSTALL_HINT}") from error
    return write_model(directory)


def _backends(wishes: Wishes) -> tuple[tuple[Engine, ...], str]:
    engines: list[Engine] = []
    for n, url in enumerate(wishes.backends):
        parts = urlsplit(url)
        try:
            port = parts.port or 80
        except ValueError:
            port = 0
        if parts.scheme != "http" or not parts.hostname or not port or parts.path.strip("/"):
            raise StackError(f"--backend {url}: give scheme, host and port of a server, such as http://127.0.0.1:8000")
        engines.append(Engine(name=f"backend-{n}", address=parts.hostname, port=port, dialect=wishes.dialect))
    model, *_ = map(_served_model, engines)  # asks all of them
    return tuple(engines), model


def _served_model(engine: Engine) -> str:
    try:
        return web.get(engine.authority, "/v1/models").json()["data"][0]["id"]
    except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError) as error:
        url = f"http://{engine.authority}"
        raise StackError(f"--backend {url}: no model at /v1/models ({error}); is the server up?") from error


class _Stack(contextlib.AbstractContextManager["_Stack"]):
    """The running processes; leaving the context ends them."""

    def __init__(self, name: str, plan: Plan) -> None:
        self._name = name
        self._plan = plan
        self._admin = f"{plans.LOOPBACK}:{plan.ports.admin}"
        self._scraper = f"{plans.LOOPBACK}:{plan.ports.scraper}"
        self._directory = Path(plan.directory)
        self._logs = self._directory / "logs"
        self._children: dict[str, Child] = {}
        self._screen = Screen()
        self._dead: set[str] = set()

    def __exit__(self, *_: object) -> None:
        for ending in ENDINGS:  # the second Ctrl-C of the impatient must not leave anything behind
            signal.signal(ending, signal.SIG_IGN)
        end(list(self._children.values()))

    def start(self) -> None:
        plan = self._plan
        binary = self._prepare()
        started = time.monotonic()
        programs = _find("jaeger", "jaeger-all-in-one"), _find("prometheus")
        for name, argv in plans.commands(plan, str(binary), *programs).items():
            self._children[name] = Child(name, argv, self._logs, plans.environment(plan, name))
        self._remember()
        for engine in plan.engines:
            if engine.argv:
                self._await(engine.name, lambda e=engine: web.get(e.authority, "/health").status == 200)
        self._await("scraper", self._scraped)
        self._await("picker", self._all_pick)
        body = msgspec.json.encode({"model": plan.model, "messages": [{"role": "user", "content": "ready?"}], "max_tokens": 8})
        self._await("envoy", lambda: self._served(body))
        self._greet(time.monotonic() - started)

    def _all_pick(self) -> bool:
        """Whether every worker is ready: the first request is not to find one that does not listen yet.

        Without its server the sharer is not, and no request needs it.
        """
        if web.get(self._admin, "/readyz").status != 200:
            return False
        return all(each["ready"] for each in web.get(self._admin, "/debug/workers").json() if each["worker"] != "sharer")

    def watch(self, *, once: bool) -> None:
        while True:
            self._bury()
            with contextlib.suppress(StackError):  # between a picker's death and its successor
                self._screen.show(table(fetch_fleet(self._admin)) + fetch_complaints(self._scraper))
            if once:
                return
            wake = time.monotonic() + self._screen.refresh_s
            while time.monotonic() < wake and all(child.alive or child.name in self._dead for child in self._children.values()):
                time.sleep(POLL_S)

    def _prepare(self) -> Path:
        plan = self._plan
        self._logs.mkdir(exist_ok=True)
        for old in (*self._logs.iterdir(), *(self._directory / each for each in ("access.log", FILE, OLDER))):
            old.unlink(missing_ok=True)
        shutil.rmtree(self._directory / "picker", ignore_errors=True)  # counters and prefixes of another run
        shutil.rmtree(self._directory / ENCODINGS, ignore_errors=True)  # pictures of another run
        cluster = self._directory / "cluster"
        shutil.rmtree(cluster, ignore_errors=True)  # rewrites of another run
        cluster.mkdir()
        (cluster / "endpoints.yaml").write_bytes(plans.endpoints_file(plan))
        contents = {plans.CONFIG: plan.config or read_builtin("default").encode(), plans.MANIFESTS: plan.manifests}
        for name, content in contents.items():
            if content:
                place(self._directory / name, content, plan.originals.get(name))
        (self._directory / "shadow.yaml").write_bytes(plan.shadow)
        if plan.ports.prometheus:
            shutil.rmtree(self._directory / "prometheus", ignore_errors=True)  # series of another run
            (self._directory / "prometheus.yaml").write_bytes(plans.scrapes(plan))
            (self._directory / "rules.yaml").write_bytes(msgspec.yaml.encode(rules()))
        intent = plans.envoy_intent(plan)
        (self._directory / "intent.yaml").write_bytes(intent)
        try:
            binary = envoy.find()
            if binary is None:
                click.echo(f"fetching Envoy {envoy.VERSION} (37 MB, once) …", err=True)
                binary = envoy.fetch()
            wanted = load_intent(intent.decode())
            envoy.validate(render(bootstrap(wanted), "yaml"), binary)
            files = self._directory / "envoy"
            shutil.rmtree(files, ignore_errors=True)  # endpoints of another run
            write_texts(files, as_files(generate(wanted, Target.ENVOY_FS, Settings(directory=str(files)))))
        except EnvoyconfError as error:
            raise StackError(str(error)) from error
        return binary

    def _await(self, name: str, ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + READY_S
        trouble = "not ready"
        while True:
            for child in self._children.values():
                if not child.alive:
                    raise StackError(child.obituary())
            try:
                if ready():
                    return
            except (OSError, http.client.HTTPException, StackError) as error:
                trouble = str(error)
            if time.monotonic() > deadline:
                raise StackError(f"{name} is not ready after {READY_S:.0f} s: {trouble}; see {self._children[name].log}")
            time.sleep(POLL_S)

    def _served(self, body: bytes) -> bool:
        """Whether a chat request through Envoy comes back, from an endpoint that the picker named if it is asked."""
        answer = web.post(f"{plans.LOOPBACK}:{self._plan.ports.gateway}", "/v1/chat/completions", body)
        if answer.status != 200:
            raise StackError(f"a request through the gateway got {answer.status}: {answer.body[:200].decode(errors='replace')}")
        return self._plan.profile == "native" or fetch_fleet(self._admin).picks > 0

    def _scraped(self) -> bool:
        """Whether the load of all engines started here is known, or that of some backend."""
        rows = fetch_fleet(self._admin).endpoints
        enough = all if self._plan.engines[0].argv else any
        if not rows or not enough(row.health == "fresh" for row in rows):
            raise StackError("; ".join(f"{row.authority} is {row.health} ({row.reason})" for row in rows) or "no endpoints")
        return True

    def _greet(self, took_s: float) -> None:
        plan = self._plan
        lines = {
            "gateway": f"http://{plans.LOOPBACK}:{plan.ports.gateway}  profile {plan.profile}, model {plan.model}",
            "page": f"http://{self._admin}/",
            "picker": f"http://{self._admin}/metrics  /debug/fleet  /debug/decisions",
            "scraper": f"http://{plans.LOOPBACK}:{plan.ports.scraper}/metrics  /debug/cluster",
            "Envoy": f"http://{plans.LOOPBACK}:{plan.ports.envoy_admin}",
            "engines": "  ".join(f"http://{engine.authority}" for engine in plan.engines),
            "files": f"{plan.directory}  (cluster/, picker.yaml, intent.yaml, envoy/, access.log, logs/)",
        }
        if plan.originals:
            lines["watched"] = "  ".join(plan.originals.values()) + "  (the page and logs/ say if there is a mistake in it)"
        if plan.traces:
            lines["traces"] = f"{plan.directory}/{FILE}  (OTLP JSON; a tree of the last one: shunter explain --trace)"
        if "jaeger" in self._children:
            lines["Jaeger"] = f"http://{plans.LOOPBACK}:{plan.ports.jaeger}  /api/traces?service=shunter-picker"
        if plan.ports.prometheus:
            lines["Prometheus"] = f"http://{plans.LOOPBACK}:{plan.ports.prometheus}/alerts  (rules.yaml, prometheus.yaml)"
        click.echo(f"\nA request went through. The stack was up after {took_s:.1f} s; Ctrl-C ends it.\n")
        for what, where in lines.items():
            click.echo(f"  {what:<{max(8, *map(len, lines))}} {where}")
        explain = "shunter explain" if self._name == "default" else f"shunter explain --name {self._name}"
        click.echo(f"\nTry it (why it went where it went: {explain}):\n\n{plans.curl(plan)}\n")

    def _bury(self) -> None:
        """Report who died; start again who may be."""
        for name, child in list(self._children.items()):
            if child.alive or name in self._dead:
                continue
            self._screen.say(child.obituary())
            if name == "envoy":
                raise StackError("without Envoy there is no gateway")
            if name not in REVIVED:
                self._dead.add(name)
                self._screen.say(f"{name} stays away; requests go to the others")
                continue
            if time.monotonic() - child.started_s < YOUNG_S:
                time.sleep(REVIVE_AFTER_S)
            self._children[name] = Child(name, child.argv, self._logs, plans.environment(self._plan, name))
            self._screen.say(f"{name} was started again")
            self._remember()

    def _remember(self) -> None:
        pids = {name: child.pid for name, child in self._children.items()}
        state.save(self._directory, state.State(self._plan, pids))
