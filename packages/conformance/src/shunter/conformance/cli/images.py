"""Options of a server that is started from an image: what to run, where, and with what."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from shunter.conformance.cli.files import read_file
from shunter.conformance.errors import UsageError

if TYPE_CHECKING:
    from shunter.conformance.shell.launching.driver import Driver

__all__ = ["IMAGE_NAMES", "IMAGE_OPTIONS", "ImageWishes"]

IMAGE_NAMES = (
    *("container", "kube", "namespace", "container_port", "environment", "volumes", "gpus"),
    *("grace_s", "ready_within_s", "pod_patch"),
)
"""What the options are called where they are read."""


class ImageWishes:
    """What is wished of an image, as the options say it; raises UsageError for wishes that do not go together."""

    def __init__(
        self,
        *,
        container: str,
        kube: str | None,
        namespace: str,
        container_port: int,
        environment: tuple[str, ...],
        volumes: tuple[str, ...],
        gpus: str,
        grace_s: float,
        ready_within_s: float,
        pod_patch: Path | None,
    ) -> None:
        from shunter.conformance.core.image import Image, parse_environment, parse_volume

        given = {"--kube": kube is not None, "--namespace": namespace, "--pod-patch": pod_patch}
        given |= {"--env": environment, "--volume": volumes, "--gpus": gpus}
        for option, value in given.items():
            if value and not container:
                raise UsageError(f"{option}: there is no image; name it with --container IMAGE")
            if value and kube is None and option in {"--namespace", "--pod-patch"}:
                raise UsageError(f"{option} is for a cluster: add --kube")
        if kube is not None and volumes:
            raise UsageError("--volume is for a container of this machine; give a pod its volumes by --pod-patch")
        if kube is not None and gpus == "all":
            raise UsageError("--gpus all: a pod has to say how many")
        self.named = bool(container)
        self._kube, self._namespace = kube, namespace
        self._patch = read_file(pod_patch) if pod_patch else ""
        self._times = {"grace_s": grace_s, "ready_within_s": ready_within_s}
        self._image = Image(
            name=container or "none",
            port=container_port,
            environment=parse_environment(environment),
            volumes=tuple(parse_volume(each) for each in volumes),
            gpus=gpus,
        )

    def __str__(self) -> str:
        """As a person calls it."""
        return self._image.name

    def driver(self, arguments: Sequence[str], health_path: str) -> "Driver":
        """Return what starts it; its arguments take the place of the image's own."""
        import msgspec

        image = msgspec.structs.replace(self._image, arguments=tuple(arguments), health_path=health_path)
        if self._kube is None:
            from shunter.conformance.shell.launching.container import Container

            return Container(image, **self._times)
        from shunter.conformance.shell.launching.pod import Pod

        return Pod(image, context=self._kube, namespace=self._namespace, patch=self._patch, **self._times)


IMAGE_OPTIONS: tuple[Callable[[Any], Any], ...] = (
    click.option(
        "--container",
        metavar="IMAGE",
        default="",
        help="Start this image in Docker, examine it and remove it. ARGS take the place of its own.",
    ),
    click.option(
        "--kube",
        metavar="[CONTEXT]",
        is_flag=False,
        flag_value="",
        default=None,
        help="Start --container's image in a Kubernetes cluster instead: kubectl's current one, or CONTEXT.",
    ),
    click.option("--namespace", metavar="NAME", default="", help="Where in the cluster.  [default: kubectl's]"),
    click.option(
        "--container-port",
        metavar="PORT",
        type=click.IntRange(1, 65535),
        default=8000,
        show_default=True,
        help="Where the server listens inside.",
    ),
    click.option("--env", "environment", metavar="NAME=VALUE", multiple=True, help="Set this inside; repeatable."),
    click.option(
        "--volume", "volumes", metavar="HERE:THERE", multiple=True, help="Mount a path of this machine, read-only; repeatable."
    ),
    click.option("--gpus", metavar="N|all", default="", help="How many GPUs it gets.  [default: none]"),
    click.option(
        "--grace",
        "grace_s",
        metavar="SECONDS",
        type=click.FloatRange(min=1),
        default=30.0,
        show_default=True,
        help="How long --container may go on with its requests when it is told to end.",
    ),
    click.option(
        "--ready-within",
        "ready_within_s",
        metavar="SECONDS",
        type=click.FloatRange(min=1),
        default=900.0,
        show_default=True,
        help="How long --container may take to get ready.",
    ),
    click.option(
        "--pod-patch",
        metavar="FILE",
        type=click.Path(path_type=Path, dir_okay=False),
        help="Merge this into the Pod as `kubectl patch` does: volumes, node selectors, tolerations, secrets.",
    ),
)
