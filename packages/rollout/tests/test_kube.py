"""What a Kubernetes API says of what it was asked is a refusal; whatever else it says may be another thing soon."""

import pytest

pytest.importorskip("kubernetes", reason="pip install 'shunter-rollout[kubernetes]'")

from kubernetes.client import ApiException

from shunter.rollout.errors import RefusedError, ServerError
from shunter.rollout.shell.kube import ask


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
