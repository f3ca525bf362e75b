"""The same gateway in front of real llama.cpp servers."""

import pytest

from shunter.stack.testing import running_stack

pytestmark = [pytest.mark.envoy, pytest.mark.llamacpp]


@pytest.fixture(scope="module")
def real():
    with running_stack("--engine", "llamacpp", "--engines", "2") as stack:
        yield stack


async def test_the_text_streamed_through_envoy_is_the_text_fetched_directly(real, connect):
    client = connect(real)
    for question in ("which track?", "the wagon stands on the track " * 40):
        options = {"temperature": 0, "seed": 1, "cache_prompt": False, "max_tokens": 32}
        through = await client.chat(question, stream=True, **options)
        direct = await client.chat(question, url=f"http://{through.served}", **options)
        assert through.status == direct.status == 200
        assert through.text == direct.text
        assert through.text


async def test_a_real_engines_load_is_seen(real, eventually):
    rows = await eventually(lambda: [row for row in real.fleet().endpoints if row.health == "fresh"])
    assert len(rows) == 2
    for row in rows:
        assert row.running is not None
        assert row.waiting is not None
        assert row.kv_usage is None, "llama.cpp has no such metric: unknown, not zero"
