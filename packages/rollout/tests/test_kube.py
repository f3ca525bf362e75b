"""What a Kubernetes API says of what it was asked is a refusal; whatever else it says may be another thing soon."""

import json
import re
import socket

import pytest

pytest.importorskip("kubernetes", reason="pip install 'shunter-rollout[kubernetes]'")

from kubernetes.client import ApiException

from shunter.rollout.errors import ConfigError, RefusedError, ServerError
from shunter.rollout.shell.kube import ask, configured
from shunter.rollout.shell.kube_store import ConfigMapStore


@pytest.mark.parametrize("text", ["", "a: [", "a: 1", "[]", "current-context: x\ncontexts: x"])
def test_a_kubeconfig_that_is_none_is_refused(text, tmp_path, monkeypatch):
    path = tmp_path / "config"
    path.write_text(text)
    monkeypatch.setenv("KUBECONFIG", str(path))
    with pytest.raises(ConfigError, match=rf"^no Kubernetes API: .*{re.escape(str(path))}"):
        configured()


def test_an_api_server_that_hangs_is_waited_for_once(tmp_path, monkeypatch):
    """It takes connections and says nothing; the client by itself would ask four times."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        context = {"cluster": "c", "user": "u"}
        cluster = {"server": f"http://127.0.0.1:{silent.getsockname()[1]}"}
        path = tmp_path / "config"
        path.write_text(
            json.dumps(
                {
                    "current-context": "x",
                    "contexts": [{"name": "x", "context": context}],
                    "clusters": [{"name": "c", "cluster": cluster}],
                    "users": [{"name": "u", "user": {}}],
                }
            )
        )
        monkeypatch.setenv("KUBECONFIG", str(path))
        monkeypatch.setattr("shunter.rollout.shell.kube_store.ANSWER_S", 0.1)
        with pytest.raises(ServerError, match="Kubernetes: "):
            ConfigMapStore("default", "review").held()
        silent.settimeout(0)
        silent.accept()[0].close()
        with pytest.raises(BlockingIOError):
            silent.accept()


@pytest.mark.parametrize("status", [403, 404, 409, 422])
def test_a_refusal_has_its_status(status):
    def call():
        raise ApiException(status=status, reason="no")

    with pytest.raises(RefusedError, match=f"Kubernetes: HTTP {status}: no") as refused:
        ask(call)
    assert refused.value.status == status


@pytest.mark.parametrize("status", [None, 0, 408, 429, 500, 503])
def test_who_cannot_answer_now_refuses_nothing(status):
    """The client's own word for TLS that failed is 0."""

    def call():
        raise ApiException(status=status, reason="later")

    with pytest.raises(ServerError, match="later") as told:
        ask(call)
    assert not isinstance(told.value, RefusedError)
