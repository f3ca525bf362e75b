"""The command line of one llama.cpp server: ``python -m shunter.stack.llamacpp``."""

import sys
from pathlib import Path

import click

from shunter.stack.llamacpp.server import LlamaCppError, serve

__all__ = ["main"]


@click.command()
@click.option("--gguf", type=click.Path(exists=True, dir_okay=False, path_type=Path), required=True, help="Model file.")
@click.option("--model-name", required=True, help="Name under which the model is served.")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=click.IntRange(0, 65535), default=0, show_default=True, help="0: any free port.")
@click.option("--slots", type=click.IntRange(1, 64), default=4, show_default=True, help="Requests decoded at once.")
@click.option("--ctx", type=click.IntRange(256), default=8192, show_default=True, help="Tokens per slot, prompt and answer.")
def main(*, gguf: Path, model_name: str, host: str, port: int, slots: int, ctx: int) -> None:
    """Run a real llama.cpp server, with /metrics and /slots, until SIGTERM or SIGINT."""
    try:
        serve(gguf=gguf, model=model_name, host=host, port=port, slots=slots, context_tokens=ctx)
    except LlamaCppError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main(prog_name="python -m shunter.stack.llamacpp")
