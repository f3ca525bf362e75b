"""A model server as a Pod of any cluster that kubectl can reach, or of the one that the exam itself runs in.

From outside the server is reached through a forwarded port, which is there as long as the exam; from inside through its
Service. Both lead to a server that is not ready yet, or is about to end. A forwarded port is slow to pass on that somebody has
hung up, so every time limit is a little longer then.
"""

import asyncio
import json
import os
import secrets
from asyncio.subprocess import DEVNULL, PIPE
from contextlib import suppress
from types import TracebackType
from typing import Any

from shunter.conformance.core.image import KILL_ENGINE, NO_ENGINE, Image
from shunter.conformance.core.manifests import OWNER_NAME, OWNER_UID, server_objects
from shunter.conformance.errors import LaunchError, Skip, UsageError
from shunter.conformance.shell.launching.driver import Served
from shunter.conformance.shell.launching.kubectl import Forward, Kubectl, RefusedError, end
from shunter.conformance.shell.launching.readiness import GRACE_S, READY_WITHIN_S, last_words

__all__ = ["Pod"]

# Every question is a process; a pod's state changes with the kubelet's probe, once a second.
POLL_S = 0.5

# containerd lets the other direction of a forwarded connection go on for a second when its client has hung up; the rest is for
# the way through the API server.
FORWARD_LAG_S = 1.5

# Of a log, what is kept.
LOG_BYTES = 1 << 16

# The last lines come within a moment of the end.
HEAR_OUT_S = 5.0

# Of a pod that is to go at once, the kubelet and the API server have to know; a node that is dead never says so.
GONE_WITHIN_S = 60.0

# What we call a pod that is not there.
GONE = "gone"

# States in which a container waits for something that will not come.
HOPELESS = {"CreateContainerConfigError", "CreateContainerError", "ErrImagePull", "ImagePullBackOff", "InvalidImageName"}


class Pod:
    """One server in one Pod at a time; keeps the promises of `Driver`. A restart is another Pod of the same name."""

    def __init__(
        self,
        image: Image,
        *,
        context: str = "",
        namespace: str = "",
        patch: str = "",
        grace_s: float = GRACE_S,
        ready_within_s: float = READY_WITHIN_S,
    ) -> None:
        self.grace_s = grace_s
        self._image = image
        self._patch = patch
        self._ready_within_s = ready_within_s
        self._kubectl = Kubectl(context, namespace)
        self._name = f"shunter-exam-{secrets.token_hex(4)}"
        self._inside = not context and "KUBERNETES_SERVICE_HOST" in os.environ
        self._pod: dict[str, Any] = {}
        self._created = False
        self._forward = Forward(self._kubectl, self._name, image.port, lambda: self._created)
        self._said = bytearray()
        self._listener: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Served:
        try:
            pod, service = server_objects(self._image, self._name, self.grace_s, _owner())
            self._pod = await self._patched(pod)
            created = await self._kubectl.read("create", "--filename=-", stdin=json.dumps(service))
            await self._create()
            await self._ready()
            lag_s = 0.0
            if self._inside:
                host: str = created["spec"]["clusterIP"]
                url = f"http://[{host}]:{self._image.port}" if ":" in host else f"http://{host}:{self._image.port}"
            else:
                await self._forward.open()
                url = f"http://127.0.0.1:{self._forward.local_port}"
                lag_s = FORWARD_LAG_S
        except RefusedError as error:
            await self._remove()
            raise LaunchError(f"{self._image.name}: {error}") from None
        except BaseException:
            await self._remove()
            raise
        return Served(url=url, profile="", version=self._image.name, lag_s=lag_s)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._remove()

    async def terminate(self) -> None:
        """Delete the Pod, with the grace."""
        await self._kubectl.run("delete", f"pod/{self._name}", "--wait=false", f"--grace-period={round(self.grace_s)}")

    async def kill_engine(self) -> None:
        """Kill the engine's processes inside; raises Skip if there are none beside the server's own."""
        status, _, err = await self._kubectl.attempt("exec", self._name, "--container=server", "--", *KILL_ENGINE)
        if status == NO_ENGINE:
            raise Skip("no process in the container is known as an engine's")
        if status:
            raise Skip(f"nothing can be killed inside the pod: {err.strip()}")

    async def ended(self, within_s: float) -> bool:
        """Wait until the Pod's container has ended, or the Pod has gone."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while _phase(await self._look()) not in {"Succeeded", "Failed", GONE}:  # noqa: ASYNC110 – kubectl is asked
                    await asyncio.sleep(POLL_S)
                return True
        return False

    async def restart(self) -> None:
        """Delete what is left of the Pod at once, and create it anew."""
        self._created = False
        # kubectl would watch until it is gone, and an exam as a Job may not watch.
        await self._kubectl.run("delete", f"pod/{self._name}", "--ignore-not-found", "--now", "--wait=false")
        try:
            async with asyncio.timeout(GONE_WITHIN_S):
                while (await self._look())["status"].get("phase") != GONE:  # noqa: ASYNC110 – kubectl is asked
                    await asyncio.sleep(POLL_S)
        except TimeoutError:
            raise LaunchError(f"{self._image.name}: its pod is still there {GONE_WITHIN_S:g} s after its deletion") from None
        await self._stop_listening()
        await self._create()

    def log(self) -> str:
        """Return the end of what the server has said, in all its lives."""
        return self._said.decode(errors="replace")

    async def _patched(self, pod: dict[str, Any]) -> dict[str, Any]:
        """Merge the examiner's own wishes in, as kubectl patches a Pod."""
        if not self._patch:
            return pod
        wishes = ("patch", "--local", "--type=strategic", f"--patch={self._patch}", "--filename=-")
        try:
            return await self._kubectl.read(*wishes, stdin=json.dumps(pod))
        except RefusedError as error:
            raise UsageError(f"--pod-patch does not fit a Pod: {error}") from None

    async def _create(self) -> None:
        await self._kubectl.run("create", "--filename=-", stdin=json.dumps(self._pod))
        self._created = True
        self._listener = asyncio.create_task(self._listen())

    async def _ready(self) -> None:
        """Wait for the Pod's readiness; raises LaunchError that says what it waits for, or how it ended."""
        why = "nothing is known of the pod"
        try:
            async with asyncio.timeout(self._ready_within_s):
                while True:
                    pod = await self._look()
                    status = pod["status"]
                    if any(each["type"] == "Ready" and each["status"] == "True" for each in status.get("conditions", ())):
                        return
                    if _phase(pod) in {"Succeeded", "Failed", GONE}:
                        await self._hear_out()
                        raise LaunchError(f"{self._image.name}: {_state(pod)}{last_words(self.log())}")
                    waiting = [each["state"].get("waiting", {}) for each in status.get("containerStatuses", ())]
                    if any(each.get("reason") in HOPELESS for each in waiting):
                        raise LaunchError(f"{self._image.name}: {_state(pod)}")
                    why = _state(pod)
                    await asyncio.sleep(POLL_S)
        except TimeoutError:
            late = f"not ready within {self._ready_within_s:g} s: {why}"
            raise LaunchError(f"{self._image.name}: {late}{last_words(self.log())}") from None

    async def _look(self) -> dict[str, Any]:
        try:
            return await self._kubectl.read("get", f"pod/{self._name}", "--ignore-not-found")
        except ValueError:  # nothing was printed
            return {"status": {"phase": GONE}}

    async def _listen(self) -> None:
        """Keep what the server prints; Kubernetes forgets it with the Pod."""
        heard = False
        while not heard:
            command = ("logs", f"pod/{self._name}", "--container=server", "--follow")
            process = await self._kubectl.start(*command, stdin=DEVNULL, stdout=PIPE, stderr=DEVNULL)
            assert process.stdout  # noqa: S101 – it was asked for
            try:
                while piece := await process.stdout.read(LOG_BYTES):
                    heard = True
                    self._said += piece
                    del self._said[:-LOG_BYTES]
            finally:
                await end(process)
            await asyncio.sleep(POLL_S)

    async def _hear_out(self) -> None:
        """Wait for the rest of what a server that has ended said."""
        if self._listener:
            await asyncio.wait([self._listener], timeout=HEAR_OUT_S)

    async def _stop_listening(self) -> None:
        if self._listener:
            self._listener.cancel()
            await asyncio.wait([self._listener])
            self._listener = None

    async def _remove(self) -> None:
        """Delete whatever has been created, and do not wait for it to be gone."""
        await asyncio.shield(self._delete())

    async def _delete(self) -> None:
        objects = (f"pod/{self._name}", f"service/{self._name}")
        await self._forward.close()
        with suppress(RefusedError):
            await self._kubectl.run("delete", *objects, "--ignore-not-found", "--now", "--wait=false")
        await self._stop_listening()


def _owner() -> tuple[str, str] | None:
    """Return the Pod in which this runs, if it was told."""
    name, uid = os.environ.get(OWNER_NAME), os.environ.get(OWNER_UID)
    return (name, uid) if name and uid else None


def _phase(pod: dict[str, Any]) -> str:
    """Return the pod's phase; one that has a container that ended is over, whatever the phase says yet."""
    states = [each.get("state", {}) for each in pod["status"].get("containerStatuses", ())]
    return "Failed" if any("terminated" in state for state in states) else pod["status"].get("phase", "Pending")


def _state(pod: dict[str, Any]) -> str:
    """Say in what state a pod is, and why."""
    status = pod["status"]
    for each in status.get("containerStatuses", ()):
        for state, details in each.get("state", {}).items():
            if state == "terminated":
                return f"it ended with exit code {details['exitCode']} ({details.get('reason', 'no reason')})"
            if details.get("reason"):
                return f"it is {state}: {details['reason']}: {details.get('message', '')}".rstrip(": ")
    said = [each["message"] for each in status.get("conditions", ()) if each["status"] == "False" and each.get("message")]
    return f"it is {status.get('phase', 'unknown')}" + "".join(f": {each}" for each in said[:1])
