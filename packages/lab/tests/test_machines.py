"""Machines keep the numbers that were published about them."""

import pytest

from shunter.lab.core.machines import H100, LLAMA3_70B, MACHINES, QWEN3_32B, roofline


@pytest.mark.parametrize(
    ("name", "tokens_s"), [("qwen3-32b-h100-tp2", 15_928), ("qwen3-32b-tpu-v6e", 26_290), ("gpt-oss-120b-h100", 39_065)]
)
def test_a_step_full_of_prompt_runs_at_the_published_rate(name: str, tokens_s: float) -> None:
    params = MACHINES[name]
    full = params.max_num_batched_tokens
    assert full / params.pass_s(full, 0, 0, full * full / 2) == pytest.approx(tokens_s)


@pytest.mark.parametrize(("name", "tokens"), [("qwen3-32b-h100-tp2", 307_328), ("llama3-70b-h100-tp4", 461_376)])
def test_the_published_kv_cache_is_what_vllm_would_print(name: str, tokens: int) -> None:
    params = MACHINES[name]
    assert params.num_blocks * params.block_size == tokens


def test_the_roofline_comes_close_to_the_kv_caches_that_were_published() -> None:
    """It is trusted where nothing was published, so it must be right where something was."""
    for model, cards, tokens in ((QWEN3_32B, 2, 307_328), (LLAMA3_70B, 4, 461_376)):
        params = roofline(model, H100, cards)
        assert params.num_blocks * params.block_size == pytest.approx(tokens, rel=0.1)


def test_a_newer_card_decodes_faster_and_a_mixed_fleet_is_one() -> None:
    h100, a100 = MACHINES["qwen3-32b-h100-tp2"], MACHINES["qwen3-32b-a100-tp2"]
    assert 1.3 < a100.step_s / h100.step_s < 2
    assert 2 < a100.prefill_token_s / h100.prefill_token_s < 4
