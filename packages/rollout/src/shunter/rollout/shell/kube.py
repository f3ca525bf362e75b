"""Weights that are in Kubernetes: an InferenceModelRewrite, by server-side apply, or the backends of an HTTPRoute.

The official client reads kubeconfigs and service accounts. Its calls block, so they are made in a thread.
"""

import asyncio
import os
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import urllib3
from kubernetes import client, config
from kubernetes.client import ApiException, CustomObjectsApi
from yaml import YAMLError

from shunter.rollout.core.sight import Page, in_force
from shunter.rollout.core.spec import Rollout
from shunter.rollout.core.weights import rewrite, route_share, routed
from shunter.rollout.errors import ConfigError, RefusedError, ServerError

__all__ = ["ANSWER_S", "HttpRoute", "RewriteResource", "ask", "configured", "connect"]

MANAGER = "shunter-rollout"
APPLY = "application/apply-patch+yaml"
ROUTES = ("gateway.networking.k8s.io", "v1")
# A call that is refused in time is made again after the next look; whoever is at it has to be heard of within 20 s.
ANSWER_S = 5
# What a server says of what it was asked; whatever else there is (it is busy or broken, TLS failed: 0) may be over soon.
REFUSALS = frozenset(range(400, 500)) - {408, 429}
# What the library raises of a kubeconfig that is missing, incomplete or no YAML; of another shape it is Python's own words.
KUBECONFIG_ERRORS = (config.ConfigException, OSError, YAMLError)
ODD_SHAPES = (ValueError, TypeError, AttributeError, KeyError)

Answer = TypeVar("Answer")


def connect() -> CustomObjectsApi:
    """Reach objects of any kind; raises ConfigError."""
    return CustomObjectsApi(configured())


def configured() -> Any:
    """Return a client for the API server of $KUBECONFIG, else the pod's own, else of ~/.kube/config; raises ConfigError."""
    library: Any = config  # it has no types
    settings: Any = client.Configuration()
    settings.retries = 0  # urllib3's own three would make four times the patience of one
    path = os.environ.get("KUBECONFIG")
    try:
        if path:
            library.load_kube_config(path, client_configuration=settings)
        elif "KUBERNETES_SERVICE_HOST" in os.environ:
            library.load_incluster_config(client_configuration=settings)
        else:
            library.load_kube_config(client_configuration=settings)
    except KUBECONFIG_ERRORS as error:
        raise ConfigError(f"no Kubernetes API: {' '.join(str(error).split())}") from None
    except ODD_SHAPES:
        raise ConfigError(f"no Kubernetes API: {path or '~/.kube/config'} is not such as kubectl writes") from None
    return client.ApiClient(settings)


def ask(call: Callable[[], Answer]) -> Answer:
    """Make a call; raises RefusedError, or another ServerError if the API server does not answer or cannot now."""
    try:
        return call()
    except ApiException as error:
        problem: Any = error
        words = f"Kubernetes: HTTP {problem.status}: {problem.reason}; {str(problem.body or '')[:300]}"
        if problem.status in REFUSALS:
            raise RefusedError(words, problem.status) from None
        raise ServerError(words) from None
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise ServerError(f"Kubernetes: {error}") from None


class RewriteResource:
    """An InferenceModelRewrite that is ours; pickers tell what is in force."""

    def __init__(self, rollout: Rollout, api: CustomObjectsApi) -> None:
        self._rollout = rollout
        self._api: Any = api

    async def share(self, pages: Sequence[Page]) -> int | None:
        """Return what pickers say."""
        return in_force(pages, self._rollout)

    async def move(self, share: int) -> None:
        """Apply it; fields of other managers stay theirs."""
        body = rewrite(self._rollout, share)
        group, version = body["apiVersion"].split("/")
        await asyncio.to_thread(
            ask,
            lambda: self._api.patch_namespaced_custom_object(
                group,
                version,
                body["metadata"]["namespace"],
                "inferencemodelrewrites",
                body["metadata"]["name"],
                body,
                field_manager=MANAGER,
                force=True,
                _content_type=APPLY,
                _request_timeout=ANSWER_S,
            ),
        )


class HttpRoute:
    """Somebody's HTTPRoute, of which only the weights of two backends are changed.

    Its rules are one list to Kubernetes, owned as a whole by whoever wrote it, so they are not applied but replaced, by the
    version that was read: a change in between is an answer of 409, and the next look begins anew.
    """

    def __init__(self, rollout: Rollout, api: CustomObjectsApi) -> None:
        self._rollout = rollout
        self._api: Any = api
        self._place = (*ROUTES, rollout.traffic.namespace, "httproutes", rollout.traffic.http_route)

    async def share(self, pages: Sequence[Page]) -> int | None:  # noqa: ARG002  the gateway splits here, not the pickers
        """Return what the route says."""
        return route_share(await self._read(), self._rollout)

    async def move(self, share: int) -> None:
        """Change the weights."""
        body = routed(await self._read(), self._rollout, share)
        await asyncio.to_thread(
            ask,
            lambda: self._api.replace_namespaced_custom_object(
                *self._place, body, field_manager=MANAGER, _request_timeout=ANSWER_S
            ),
        )

    async def _read(self) -> dict[str, Any]:
        return await asyncio.to_thread(
            ask, lambda: self._api.get_namespaced_custom_object(*self._place, _request_timeout=ANSWER_S)
        )
