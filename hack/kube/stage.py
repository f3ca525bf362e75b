"""A cluster of one node that has Shunter's images, an Envoy, and the CRDs of GIE; ``make cluster`` keeps one.

Whatever cluster $SHUNTER_CLUSTER says is taken instead: the path of a kubeconfig. Its nodes must have the images, loaded by
`kind load docker-image` or the like, and it must have the CRDs.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Generator
from pathlib import Path

from hack.kube import images, programs
from hack.kube.cluster import running_cluster
from hack.kube.image import write_image

from shunter.envoyconf.errors import KubernetesRefusedError, ToolMissingError
from shunter.envoyconf.shell import envoy
from shunter.envoyconf.testing_gateway import own_network
from shunter.envoyconf.testing_kube import RunningKube, find_crds, find_tool

__all__ = ["CHART", "running_stage"]

CHART = images.ROOT / "deploy" / "chart"
TARGETS = ("picker", "scraper", "envoyconf", "rollout", "lab", "all")


@contextlib.contextmanager
def running_stage() -> Generator[RunningKube]:
    """Run a cluster, in a network of its own, or use the one that is there.

    Raises programs.Missing, ToolMissingError or PermissionError if it cannot be; KubernetesRefusedError if it does not come up.
    """
    find_tool("helm")
    if there := os.environ.get("SHUNTER_CLUSTER"):
        yield RunningKube("", Path(there))
        return
    archives = [*images.archives(TARGETS), _envoy()]
    with own_network(), running_cluster(archives, dns=True) as kube:
        for path in find_crds("gie_"):
            kube.kubectl("create", "-f", str(path))
        yield kube


def _envoy() -> Path:
    """Return an archive with the Envoy that the tests fetch, under the name of its project's image."""
    binary = envoy.find(envoy.VERSION)
    if binary is None:
        raise programs.Missing("no Envoy: any test of the marker `envoy` fetches it")
    archive = images.ROOT / "build" / "images" / "envoy.tar"
    archive.parent.mkdir(parents=True, exist_ok=True)
    write_image(archive, f"envoyproxy/envoy:distroless-v{envoy.VERSION}", tools=[("envoy", binary)], command=("envoy",))
    return archive


def main() -> None:
    """Keep a cluster until Ctrl-C, and say how to reach it."""
    try:
        with running_stage() as kube:
            place = f"--net=/proc/{os.getpid()}/ns/net"
            print(f"A cluster with {', '.join(TARGETS)} and Envoy, until Ctrl-C. Its network is its own:\n")
            print(
                f"  nsenter {place} env KUBECONFIG={kube.kubeconfig} PATH={kube.kubeconfig.parent}/bin:$PATH bash\n", flush=True
            )
            signal.signal(signal.SIGTERM, signal.default_int_handler)
            with contextlib.suppress(KeyboardInterrupt):
                signal.pause()
    except PermissionError:
        sys.exit("no network namespace: only root can give a cluster a network of its own")
    except (programs.Missing, ToolMissingError, KubernetesRefusedError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
