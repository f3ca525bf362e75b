"""What envoyconf says of rewrites is what a picker does."""

from shunter.envoyconf import load_intent, render
from shunter.envoyconf.core.generate import generate
from shunter.envoyconf.core.targets import Target
from shunter.stack.testing import running_stack

INTENT = """
pools:
- name: engines
  endpoints: ["127.0.0.1:8101"]
  picker: {addresses: ["127.0.0.1:9002"]}
routes:
- pool: engines
  models: [review]
  rewrites: [{model: review-v1, weight: 90}, {model: review-v2, weight: 10}]
- pool: engines
"""
ASKED = 200


async def test_a_generated_rewrite_splits_an_adapter_ninety_to_ten(connect, eventually, tmp_path):
    artefacts = generate(load_intent(INTENT), Target.ENVOY_STATIC).artefacts
    (documents,) = [artefact.documents for artefact in artefacts if artefact.name == "rewrites"]
    (tmp_path / "rewrites.yaml").write_text(render(documents))
    with running_stack("--manifests", str(tmp_path / "rewrites.yaml")) as stack:
        client = connect(stack)
        ids = {(await client.chat("hello", model="review")).request_id for _ in range(ASKED)}
        decisions = await eventually(
            lambda: found if len(found := [each for each in stack.decisions() if each.request_id in ids]) == ASKED else None
        )
        other = await client.chat("hello")
        assert (await client.decision(other.request_id)).rule is None
    drawn = [each.target_model for each in decisions]
    assert {*drawn} == {"review-v1", "review-v2"}
    assert 3 <= drawn.count("review-v2") <= 50  # 20 are expected; beyond this less than once in ten thousand
