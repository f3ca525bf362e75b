"""`shunter lab`: run believable model servers, and compare policies on workloads in virtual time."""

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import click

if TYPE_CHECKING:
    import asyncio

    from shunter.lab.shell.server import LabServer
    from shunter.lab.shell.sidecar import Sidecar
    from shunter.lab.shell.tracing import Tracing

__all__ = ["main"]

KV_PORTS = ("kv_events_port", "kv_replay_port")

# Named here because `--help` loads nothing; a test holds them against what there is.
DIALECTS = ("lab", "vllm", "sglang", "triton-tensorrt-llm", "trtllm-serve", "tgi", "jetstream", "llamacpp")

# What a process leaves with that the fault `crash` ended.
CRASHED = 70


@click.group()
def main() -> None:
    """Believable model servers, and policies in virtual time.

    The servers have vLLM's API and metrics over an engine model, no GPU.
    """


@main.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="0 takes a free port.")
@click.option(
    "--model",
    "models",
    multiple=True,
    default=["lab/llama-3-8b"],
    show_default=True,
    help="Served model name; repeat for aliases. The first labels the metrics.",
)
@click.option("--lora", "loras", multiple=True, metavar="NAME", help="LoRA adapter to load; repeatable. Turns LoRA on.")
@click.option("--enable-lora", is_flag=True, help="Turn LoRA on without loading an adapter.")
@click.option("--name", help="Identity in system_fingerprint.  [default: lab-PORT]")
@click.option("--max-num-seqs", type=int, help="Sequences in a batch at most; the rest wait.  [default: 64]")
@click.option("--max-num-batched-tokens", type=int, help="Tokens in a forward pass at most.  [default: 2048]")
@click.option("--num-blocks", type=int, help="KV blocks.  [default: 4096]")
@click.option("--block-size", type=int, help="Tokens in a KV block.  [default: 16]")
@click.option("--max-model-len", type=int, help="Context window in tokens.  [default: 8192, or what the KV cache holds]")
@click.option("--max-loras", type=int, help="Distinct adapters in a batch at most.  [default: 1]")
@click.option("--max-num-queued-reqs", type=int, help="Waiting requests at most, then 503.  [default: no limit]")
@click.option("--no-prefix-caching", is_flag=True, help="Compute every prompt in full.")
@click.option("--enable-prompt-tokens-details", is_flag=True, help="Tell cached_tokens in usage.")
@click.option(
    "--media-tokens", type=int, help="Prompt tokens of a picture, clip or recording.  [default: 0, it reads text only]"
)
@click.option("--encode-s", type=float, help="How long encoding one takes, in seconds.  [default: 0.045]")
@click.option("--encoder-cache-size", type=int, help="Tokens of media that stay encoded.  [default: as in a forward pass]")
@click.option(
    "--ec-storage",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIRECTORY",
    help="Leave there what was encoded, and encode nothing that is there already.",
)
@click.option("--mm-encoder-only", is_flag=True, default=None, help="Encode for others, and compute nothing else.")
@click.option("--speed", type=float, help="Times as fast as the default machine, a 24 GB card of the L4 class.")
@click.option(
    "--shutdown-timeout",
    default=0.0,
    show_default=True,
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="How long running requests may go on after SIGTERM.",
)
@click.option("--data-parallel-size", default=1, show_default=True, type=click.IntRange(1), help="Engines behind the one port.")
@click.option("--kv-events-port", type=click.IntRange(0, 65535), help="Publish what the KV cache holds.  [default: do not]")
@click.option("--kv-replay-port", type=click.IntRange(0, 65535), help="Repeat it to who missed some.  [default: do not]")
@click.option(
    "--dialect",
    type=click.Choice(DIALECTS),
    default="lab",
    show_default=True,
    help="Which kind of server to be (`shunter lab dialects`). lab: vLLM's API without vLLM's defects; trtllm-serve, tgi and "
    "jetstream are made from the sources of these servers, the others after recordings.",
)
@click.option(
    "--metrics-port",
    type=click.IntRange(0, 65535),
    help="Where the metrics are in a dialect that has them apart.  [default: 8002 for triton-tensorrt-llm, 9988 for jetstream]",
)
@click.option("--admin", is_flag=True, help="Let faults be changed while it runs: GET and PUT /admin/faults.")
@click.option("--break", "faults", multiple=True, metavar="FAULT", help="Be broken in this way; see `shunter lab faults`.")
def serve(**options: Any) -> None:
    """Serve one model until SIGTERM or Ctrl-C. With OTEL_EXPORTER_OTLP_ENDPOINT its part of traces is sent there."""
    import asyncio

    import uvloop

    from shunter.lab.core.params import params_from
    from shunter.lab.dialects import dialect_named
    from shunter.lab.errors import ParamsError
    from shunter.lab.shell.server import LabServer

    shutdown_timeout_s: float = options.pop("shutdown_timeout")
    if not math.isfinite(shutdown_timeout_s):
        raise click.BadParameter(f"{shutdown_timeout_s} is no number of seconds", param_hint="--shutdown-timeout")
    named = ("host", "port", "models", "loras", "name", "faults", "dialect", "admin", "data_parallel_size", "ec_storage")
    serving = {name: options.pop(name) for name in (*named, *KV_PORTS)}
    metrics_port: int | None = options.pop("metrics_port")
    enable_lora: bool = options.pop("enable_lora")
    details: bool = options.pop("enable_prompt_tokens_details")
    options["enable_prefix_caching"] = not options.pop("no_prefix_caching")
    tracing = _trace()
    try:
        server = LabServer(
            params_from({name: value for name, value in options.items() if value is not None}),
            **serving,
            metrics_port=dialect_named(serving["dialect"]).metrics_port or 0 if metrics_port is None else metrics_port,
            enable_lora=enable_lora or None,
            prompt_tokens_details=details,
            middlewares=[tracing.middleware] if tracing else (),
        )
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(server, shutdown_timeout_s))
        if tracing:
            tracing.close()
    except ParamsError as error:
        click.echo(f"shunter lab serve: {error}", err=True)
        sys.exit(2)


def _trace() -> "Tracing | None":
    """Return who makes spans, if somebody wants them; the SDK takes 0.1 s and 25 MB."""
    import os

    if not os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
        return None
    try:
        from shunter.lab.shell.tracing import Tracing
    except ImportError as error:
        raise click.UsageError(
            f"OTEL_EXPORTER_OTLP_ENDPOINT is set, and there is no {error.name}: install shunter-lab[tracing], or unset it"
        ) from error
    return Tracing()


async def _serve(server: "LabServer", shutdown_timeout_s: float) -> None:
    import os

    ended = _signalled()
    server.crash_by(lambda: os._exit(CRASHED))
    await server.start()
    broken = f", broken: {', '.join(fault.name for fault in server.faults)}" if server.faults else ""
    apart = f", metrics at {server.metrics_url}" if server.dialect.metrics_port is not None else ""
    click.echo(f"{server.fingerprint} serves {', '.join(server.models.names)} on {server.url}{apart}{broken}")
    await ended.wait()
    await server.stop(shutdown_timeout_s)


def _signalled() -> "asyncio.Event":
    """Return what is set when this process is told to end."""
    import asyncio
    import signal

    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    return ended


@main.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="0 takes a free port.")
@click.option("--model-server-host", default="127.0.0.1", show_default=True, help="Where the engine that decodes listens.")
@click.option("--model-server-port", default=8200, show_default=True, type=click.IntRange(1, 65535), help="And at which port.")
@click.option(
    "--kv-connector",
    "connector",
    default="nixlv2",
    show_default=True,
    type=click.Choice(["nixlv2", "sglang"]),
    help="How the engines hand over keys and values.",
)
@click.option(
    "--ec-connector",
    "encoder_connector",
    type=click.Choice(["ec-example"]),
    help="How what was encoded is handed over: in a directory of all engines.  [default: nobody is asked to encode]",
)
@click.option("--bootstrap-port", type=click.IntRange(1, 65535), help="Where SGLang's prefillers wait.  [default: 8998]")
@click.option(
    "--prefill-timeout",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="How long one that prefills or encodes may take.  [default: 60]",
)
@click.option("--allow", multiple=True, metavar="HOST:PORT", help="Ask only these to prefill or encode; repeatable.")
@click.option(
    "--snapshot",
    type=click.Path(file_okay=False),
    help="Directory of the scraper's snapshots: ask only endpoints of it.  [default: whomever the header names]",
)
@click.option("--metrics-port", type=click.IntRange(0, 65535), help="Its own metrics; /metrics are the engine's.")
def sidecar(
    allow: tuple[str, ...], snapshot: str | None, bootstrap_port: int | None, prefill_timeout: float | None, **options: Any
) -> None:
    """Let other engines compute prompts for one that decodes.

    It stands before that one, and asks whom x-prefiller-host-port names, and x-encoder-hosts-ports.

    If nobody answers the engine does everything itself.
    """
    import asyncio

    import uvloop

    from shunter.lab.errors import ParamsError
    from shunter.lab.shell.sidecar import BOOTSTRAP_PORT, PREFILL_S, Sidecar, endpoints_of
    from shunter.snapshot.stderr import log_to_stderr

    if prefill_timeout is not None and not math.isfinite(prefill_timeout):
        raise click.BadParameter(f"{prefill_timeout} is no number of seconds", param_hint="--prefill-timeout")
    log_to_stderr("info", "text", "sidecar")
    sources = [endpoints_of(Path(snapshot))] if snapshot else []
    sources += [frozenset(allow).__contains__] if allow else []
    try:
        sidecar = Sidecar(
            **options,
            bootstrap_port=bootstrap_port or BOOTSTRAP_PORT,
            prefill_timeout_s=prefill_timeout or PREFILL_S,
            allowed=(lambda address: any(source(address) for source in sources)) if sources else None,
        )
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_accompany(sidecar))
    except ParamsError as error:
        click.echo(f"shunter lab sidecar: {error}", err=True)
        sys.exit(2)


async def _accompany(sidecar: "Sidecar") -> None:
    ended = _signalled()
    await sidecar.start()
    click.echo(f"sidecar of {sidecar.server} on {sidecar.url}")
    await ended.wait()
    await sidecar.stop()


@main.command()
def dialects() -> None:
    """List the kinds of servers that `serve --dialect` knows."""
    from shunter.lab.dialects import DIALECTS

    width = max(map(len, DIALECTS))
    for name, dialect in DIALECTS.items():
        click.echo(f"{name:{width}}  {dialect.basis}")


@main.command()
def faults() -> None:
    """List the faults that `serve --break` knows."""
    from shunter.lab.faults import FAULTS

    width = max(map(len, FAULTS))
    for name, fault in FAULTS.items():
        click.echo(f"{name:{width}}  {fault.breaks}")


@main.command()
@click.option("--workload", "workloads", multiple=True, metavar="NAME|FILE", help="What is asked; repeatable.  [default: all]")
@click.option("--policy", "policies", multiple=True, metavar="NAME|FILE", help="Who chooses; repeatable.  [default: all]")
@click.option("--seeds", type=click.IntRange(1), help="Runs of everything, each with traffic of its own.  [default: 10]")
@click.option(
    "--qps", type=float, help="Compare at this rate.  [default: at 80 % of the best policy's knee, which is searched]"
)
@click.option("--quick", is_flag=True, help="A first look: four workloads unless told otherwise, two seeds, runs half as long.")
@click.option("--jobs", type=click.IntRange(1), help="Processes.  [default: one for each core]")
@click.option("-o", "--output", type=click.Path(file_okay=False), help="Directory for compare.json and compare.html.")
def compare(
    workloads: tuple[str, ...],
    policies: tuple[str, ...],
    seeds: int | None,
    qps: float | None,
    quick: bool,
    jobs: int | None,
    output: str | None,
) -> None:
    """Compare policies on workloads, in virtual time."""
    import asyncio
    import os
    import shlex

    from shunter.lab.compare import compare, tables
    from shunter.lab.compare.report import prepare, write
    from shunter.lab.errors import LabError
    from shunter.lab.policies import find_policy
    from shunter.lab.policies import policies as all_policies
    from shunter.lab.workloads import HOLDOUT, QUICK, WORKLOADS, find_workload

    if qps is not None and not 0 < qps < math.inf:
        raise click.BadParameter(f"{qps} is no rate", param_hint="--qps")
    # What decides the figures: neither the number of processes nor the directory does.
    command = ["shunter", "lab", "compare"]
    command += [word for name in workloads for word in ("--workload", name)]
    command += [word for name in policies for word in ("--policy", name)]
    command += [] if qps is None else ["--qps", f"{qps:.15g}"]
    command += [] if seeds is None else ["--seeds", str(seeds)]
    command += ["--quick"] if quick else []
    try:
        if output:
            prepare(Path(output))
        rows = asyncio.run(
            compare(
                [find_workload(name) for name in workloads or (QUICK if quick else (*WORKLOADS, *HOLDOUT))],
                [find_policy(name) for name in policies or all_policies()],
                seeds=seeds or (2 if quick else 10),
                qps=qps,
                shrink=0.5 if quick else 1.0,
                jobs=jobs or os.cpu_count() or 1,
                told=lambda row: click.echo(f"{row.workload}: {row.policy}", err=True),
            )
        )
        click.echo(tables(rows))
        if output:
            write(rows, Path(output), shlex.join(command))
    except (LabError, OSError) as error:
        click.echo(f"shunter lab compare: {error}", err=True)
        sys.exit(2)


@main.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False))
@click.option("-o", "--output", type=click.Path(file_okay=False), required=True, help="Directory for the report.")
def report(files: tuple[str, ...], output: str) -> None:
    """Make one report of several compare.json. Workloads may be compared one by one, or on several machines."""
    import shlex

    from shunter.lab.compare.report import joined, prepare, read, write
    from shunter.lab.errors import LabError

    try:
        rows = joined([read(Path(name)) for name in files])
        prepare(Path(output))
        write(rows, Path(output), shlex.join(["shunter", "lab", "report", *files]))
    except (LabError, OSError) as error:
        click.echo(f"shunter lab report: {error}", err=True)
        sys.exit(2)


@main.command()
def workloads() -> None:
    """List the workloads and the policies that `compare` knows."""
    from shunter.lab.policies import policies
    from shunter.lab.workloads import WORKLOADS

    known = {
        "workloads": {name: workload.about for name, workload in WORKLOADS.items()}
        | {"unseen-N": "a mixture drawn by the number N, which nobody has tuned anything on"},
        "policies": {name: policy.about for name, policy in policies().items()},
    }
    width = max(len(name) for names in known.values() for name in names)
    for heading, names in known.items():
        click.echo(f"{heading}:")
        for name, about in names.items():
            click.echo(f"  {name:{width}}  {about}")


@main.command()
@click.argument("decisions", type=click.File("rb"))
@click.option(
    "--policy", "policies", multiple=True, required=True, metavar="NAME|FILE", help="A picker's configuration; repeatable."
)
@click.option("--seed", default=1, show_default=True, help="Of the dice.")
def replay(decisions: BinaryIO, policies: tuple[str, ...], seed: int) -> None:
    """Decide recorded decisions anew by other policies. How many would go elsewhere, and what would they meet there?

    DECISIONS are lines of JSON as a running picker writes them: `curl http://127.0.0.1:9090/debug/precedents`. Each is
    decided from what was known then; what another choice would have changed for later requests, `shunter lab compare` tells.
    """
    from random import Random

    from shunter.lab.errors import TraceError
    from shunter.lab.policies import find_plan
    from shunter.picker.core.precedents import read
    from shunter.picker.core.retrial import report, retry
    from shunter.picker.errors import PrecedentError

    try:
        plans = {name: find_plan(name) for name in policies}
        precedents = list(read(decisions, f"{decisions.name}: line"))
    except (TraceError, PrecedentError) as error:
        click.echo(f"shunter lab replay: {error}", err=True)
        sys.exit(2)
    for name, plan in plans.items():
        click.echo(f"{name}:")
        for line in report(retry(precedents, plan.policy, Random(seed))):  # noqa: S311  no secret
            click.echo(f"  {line}")


@main.command("import")
@click.argument("kind", type=click.Choice(["mooncake", "azure", "access"]))
@click.argument("source", type=click.File("rb"))
@click.option("-o", "--output", type=click.File("wb"), default="-", help="Where to.  [default: standard output]")
def import_trace(kind: str, source: BinaryIO, output: BinaryIO) -> None:
    """Turn a trace into a workload file.

    It may be Mooncake's JSON lines, Azure's CSV, or the access log that envoyconf configures.

    `shunter lab compare --workload FILE.ndjson` replays it.
    """
    import msgspec

    from shunter.lab.errors import TraceError
    from shunter.lab.workloads.traces import read

    try:
        output.writelines(msgspec.json.encode(arrival) + b"\n" for arrival in read(kind, source))
    except TraceError as error:
        click.echo(f"shunter lab import: {source.name}: {error}", err=True)
        sys.exit(2)
