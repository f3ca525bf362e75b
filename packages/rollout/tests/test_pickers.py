"""What pickers say of themselves, read from their pages."""

import contextlib

import pytest
from aiohttp import ClientSession, web
from hypothesis import given
from hypothesis import strategies as st

from shunter.rollout.errors import ServerError
from shunter.rollout.shell.pickers import Pickers, read_tally

PAGE = b"""\
# HELP llm_d_epp_request_total Requests that were sent to an endpoint.
# TYPE llm_d_epp_request_total counter
llm_d_epp_request_total{model_name="m",target_model_name="v1",fairness_id="a",priority="0"} 10.0
llm_d_epp_request_total{model_name="m",target_model_name="v1",fairness_id="b",priority="0"} 5.0
llm_d_epp_request_total{model_name="m",target_model_name="v2",fairness_id="a",priority="0"} 3.0
# TYPE llm_d_epp_request_error_total counter
llm_d_epp_request_error_total{model_name="m",target_model_name="v1",error_code="500"} 2.0
# TYPE llm_d_epp_request_running gauge
llm_d_epp_request_running{model_name="m",target_model_name="v1"} 4.0
# TYPE llm_d_epp_request_ttft_seconds histogram
llm_d_epp_request_ttft_seconds_bucket{model_name="m",target_model_name="v1",streaming="true",le="0.1"} 6.0
llm_d_epp_request_ttft_seconds_bucket{model_name="m",target_model_name="v1",streaming="true",le="+Inf"} 8.0
llm_d_epp_request_ttft_seconds_bucket{model_name="m",target_model_name="v1",streaming="false",le="0.1"} 1.0
llm_d_epp_request_ttft_seconds_bucket{model_name="m",target_model_name="v1",streaming="false",le="+Inf"} 1.0
llm_d_epp_request_ttft_seconds_sum{model_name="m",target_model_name="v1"} 1.5
llm_d_epp_request_duration_seconds_bucket{model_name="m",target_model_name="v1",le="2.0"} 5.0
llm_d_epp_request_duration_seconds_bucket{model_name="m",target_model_name="v1",le="+Inf"} 9.0
llm_d_epp_request_total_created{model_name="m",target_model_name="v1"} 1.7e9
"""


def test_classes_and_pickers_are_summed_and_what_runs_has_not_ended():
    tally = read_tally([PAGE, PAGE], "v1")
    assert tally.running == 8
    assert (tally.counts.requests, tally.counts.errors) == (22, 4)
    assert (tally.counts.answered, tally.counts.ttft) == (18, ((0.1, 14),))
    assert (tally.counts.timed, tally.counts.durations) == (18, ((2.0, 10),))


def test_without_a_model_all_count():
    assert read_tally([PAGE], "").counts.requests == 14


def test_a_model_that_nobody_asked_for_has_nothing():
    assert read_tally([PAGE], "v3").counts.requests == 0


@given(st.binary() | st.builds(lambda at, more: PAGE[:at] + more, st.integers(0, len(PAGE)), st.binary()))
def test_any_page_is_a_tally_or_an_error(page):
    with contextlib.suppress(ServerError):
        read_tally([page], "v1")


@pytest.fixture
async def ask():
    """Ask a picker that answers with this."""

    @contextlib.asynccontextmanager
    async def ask(fleet, metrics=PAGE, status=200):
        app = web.Application()

        async def answer(request):
            return web.Response(body=fleet if request.path == "/debug/fleet" else metrics, status=status)

        app.add_routes([web.get("/{path:.*}", answer)])
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        async with ClientSession() as session:
            yield Pickers(session, [f"http://127.0.0.1:{runner.addresses[0][1]}"] * 2)
        await runner.cleanup()

    return ask


async def test_all_pickers_are_asked(ask):
    async with ask(b'{"snapshot_age_s": 0.5, "endpoints": [], "more": 1}') as pickers:
        glance = await pickers.look()
    assert [page.snapshot_age_s for page in glance.pages] == [0.5, 0.5]
    assert glance.metrics == (PAGE, PAGE)


@pytest.mark.parametrize(
    ("fleet", "status", "words"),
    [(b"{}", 200, "not a picker's page"), (b"no", 200, "not a picker's page"), (b"{}", 503, "HTTP 503")],
)
async def test_what_is_no_picker_is_told(ask, fleet, status, words):
    async with ask(fleet, status=status) as pickers:
        with pytest.raises(ServerError, match=words):
            await pickers.look()


async def test_localhost_is_one_picker(ask):
    async with ask(b'{"snapshot_age_s": 0.5, "endpoints": []}') as pickers:
        pickers._urls = [pickers._urls[0].replace("127.0.0.1", "localhost")]
        assert len((await pickers.look()).pages) == 1


async def test_nobody_at_all_is_told():
    async with ClientSession() as session:
        with pytest.raises(ServerError, match=r"http://127\.0\.0\.1:1/"):
            await Pickers(session, ["http://127.0.0.1:1"]).look()
