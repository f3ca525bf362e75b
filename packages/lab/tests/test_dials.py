"""Faults are exchanged while a server runs, and some of them have a measure."""

import asyncio
import contextlib
import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from shunter.lab.errors import ParamsError
from shunter.lab.faults import FAULTS
from shunter.lab.faults.dials import DIALS, read_faults
from shunter.lab.testing import LeapingLoop, lab_server


@pytest.fixture
async def server():
    async with lab_server(speed=1000, admin=True) as server:
        yield server


@pytest.fixture
def put(http, server):
    async def send(faults):
        body = faults if isinstance(faults, bytes) else json.dumps(faults)
        async with http.put(f"{server.url}/admin/faults", data=body) as response:
            return response.status, await response.json()

    return send


@pytest.fixture
def status(http, server):
    async def ask():
        async with http.post(f"{server.url}/v1/completions", json={"prompt": "x", "max_tokens": 2}) as response:
            return response.status

    return ask


async def test_faults_come_and_go_by_an_admin_call(http, server, put):
    faults = ["health-503", {"name": "errors", "rate": 0.5, "status": 429}]
    assert await put(faults) == (200, faults)
    async with http.get(f"{server.url}/admin/faults") as response:
        assert await response.json() == faults
    async with http.get(f"{server.url}/health") as response:
        assert response.status == 503
    assert await put([]) == (200, [])
    async with http.get(f"{server.url}/health") as response:
        assert response.status == 200


async def test_the_page_about_dialects_shows_what_is_answered(http, server):
    page = (Path(__file__).parents[3] / "docs" / "conformance" / "dialects.md").read_text()
    shown = re.findall(r"^\$ curl -s( -X PUT)? localhost:8203/admin/faults(?: -d '(.*)')?\n(.*)$", page, re.MULTILINE)
    assert len(shown) == 4
    for put, body, answer in shown:
        async with http.request("PUT" if put else "GET", f"{server.url}/admin/faults", data=body or None) as response:
            assert await response.text() == answer


async def test_a_server_that_resets_everybody_can_be_mended(put, status):
    assert (await put(["refuse-new"]))[0] == 200
    with pytest.raises(OSError):
        await status()
    assert (await put([]))[0] == 200
    assert await status() == 200


async def test_without_admin_there_is_no_such_path(http):
    async with lab_server() as server, http.get(f"{server.url}/admin/faults") as response:
        assert response.status == 404


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"x", "want a JSON list of names"),
        (b'{"name": "latency"}', "want a JSON list of names"),
        (["metric-404"], "near: metrics-404"),
        ([{"name": "latenzy", "seconds": 1}], "near: latency"),
        ([{"name": ["latency"]}], "fault \\['latency'\\] takes no parameters"),
        ([{"name": "sse-no-done"}], "takes no parameters or does not exist"),
        ([{"name": "latency"}], "fault 0, latency: Object missing required field `seconds`"),
        ([{"name": "latency", "second": 1, "seconds": 1}], "unknown field `second`"),
        (["crash", {"name": "errors", "rate": 3}], "fault 1, errors: .*<= 1.0 - at `\\$.rate`"),
    ],
)
async def test_what_is_wrong_with_a_list_is_said_and_nothing_changes(server, put, body, words):
    server.break_with("health-503")
    answer, said = await put(body)
    assert answer == 400
    with pytest.raises(ParamsError, match=words):
        raise ParamsError(said["error"])
    assert [fault.name for fault in server.faults] == ["health-503"]


@pytest.mark.parametrize(("rate", "errors"), [(0, []), (0.1, [10, 20, 30]), (0.4, [3, 5, 8, 10]), (1, [1, 2, 3])])
async def test_errors_come_evenly(put, status, rate, errors):
    await put([{"name": "errors", "rate": rate, "status": 503}])
    found = [await status() for _ in range(max(errors, default=5))]
    assert found == [503 if number in errors else 200 for number in range(1, len(found) + 1)]


@pytest.mark.parametrize(
    ("dial", "least_s"),
    [({"name": "latency", "seconds": 7}, 7.0), ({"name": "drip", "seconds": 2}, 8.0)],
)
def test_answers_are_late_by_a_measure(dial, least_s):
    """On a clock that leaps: four events, and as many seconds as are asked for."""

    async def ask():
        import aiohttp

        async with lab_server(speed=1000, admin=True) as server, aiohttp.ClientSession() as http:
            async with http.put(f"{server.url}/admin/faults", json=[dial]):
                pass
            begin_s = asyncio.get_running_loop().time()
            body = {"prompt": "x", "max_tokens": 3, "ignore_eos": True, "stream": True}
            async with http.post(f"{server.url}/v1/completions", json=body) as response:
                assert (await response.text()).endswith("data: [DONE]\n\n")
            return asyncio.get_running_loop().time() - begin_s

    with asyncio.Runner(loop_factory=LeapingLoop) as runner:
        assert least_s <= runner.run(ask()) < least_s + 1


@pytest.mark.parametrize(
    ("dialect", "family"),
    [("lab", "vllm:num_requests_running"), ("sglang", "sglang:num_running_reqs"), ("llamacpp", "llamacpp:requests_processing")],
)
async def test_metrics_lie_and_change_their_names_in_every_dialect(http, dialect, family):
    async with lab_server(dialect=dialect) as server:

        async def lines(*faults):
            server.faults = read_faults(json.dumps(faults).encode())
            async with http.get(server.metrics_url) as response:
                return (await response.text()).splitlines()

        lying = await lines({"name": "metric", "family": family, "value": 7})
        assert [line.rpartition(" ")[2] for line in lying if line.startswith(family)] == ["7.0"]
        renamed = await lines({"name": "renamed", "family": family, "to": "other"})
        assert not [line for line in renamed if family in line]
        assert len([line for line in renamed if "other" in line]) == 3
        assert len(lying) == len(renamed)


async def test_histograms_and_counters_lie_and_are_renamed_with_all_of_their_series(http, server):
    async def says(*faults):
        server.faults = read_faults(json.dumps(faults).encode())
        async with http.get(server.metrics_url) as response:
            return {family.name: family for family in text_string_to_metric_families(await response.text())}

    name = "vllm:time_to_first_token_seconds"
    before = await says()
    renamed = await says({"name": "renamed", "family": name, "to": "other"})
    assert renamed.keys() == before.keys() - {name} | {"other"}
    assert len(renamed["other"].samples) == len(before[name].samples)
    lying = await says({"name": "metric", "family": "vllm:prompt_tokens", "value": 7})
    assert [sample.value for sample in lying["vllm:prompt_tokens"].samples] == [7]
    assert lying["vllm:prompt_tokens_cached"] == before["vllm:prompt_tokens_cached"]


async def test_only_what_is_the_metrics_page_is_one_for_faults(http):
    """The path of vLLM's page has something else in this dialect."""
    async with lab_server(dialect="trtllm-serve") as server:

        async def statistics():
            async with http.get(f"{server.url}/metrics") as response:
                return response.status, await response.json()

        before = await statistics()
        server.faults = read_faults(b'["page-stale", "metrics-404"]')
        async with http.get(server.metrics_url) as response:
            assert response.status == 404
        assert await statistics() == before


async def test_a_stale_page_stays_what_it_was(http, server, put):
    async def page():
        async with http.get(server.metrics_url) as response:
            return await response.text()

    await put(["page-stale"])
    first = await page()
    async with http.post(f"{server.url}/v1/completions", json={"prompt": "x", "max_tokens": 2}):
        assert await page() == first
    await put([])
    assert await page() != first


async def test_a_crash_ends_the_process(server, put, status):
    ended = []
    server.crash_by(lambda: ended.append(True))
    await put(["crash"])
    assert not ended
    with pytest.raises(OSError):
        await status()
    assert ended


def test_no_dial_is_called_as_a_fault_is():
    assert not DIALS.keys() & FAULTS.keys()


@given(
    st.binary()
    | st.recursive(
        st.none() | st.booleans() | st.floats() | st.text() | st.sampled_from([*DIALS]),
        lambda x: st.lists(x) | st.dictionaries(st.sampled_from(["name", "seconds", "rate", "family", "to"]), x),
    ).map(lambda value: json.dumps(value).encode())
)
def test_whatever_is_asked_for_it_is_faults_or_a_reason(body):
    with contextlib.suppress(ParamsError):
        assert all(fault.name for fault in read_faults(body))
