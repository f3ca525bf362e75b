"""What an engine has done since it started: counters and histograms as plain numbers, named as vLLM names them."""

from bisect import bisect_left
from collections.abc import Iterable

from shunter.lab.core.sequence import Sequence

__all__ = ["FINISHED_REASONS", "Histogram", "Tally"]

# Bucket bounds as vLLM 0.32 publishes them (for a 2,048-token context).
_TTFT_S = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
_TOKEN_S = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0),
)
_REQUEST_S = (
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0),
    *(120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0),
)
_STEP_TOKENS = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
_PREEMPTIONS = (1, 2, 3, 4, 5, 10, 20)

FINISHED_REASONS: tuple[str, ...] = ("stop", "length", "abort", "error", "repetition")


class Histogram:
    """Counts of observations by upper bound (inclusive), and their sum."""

    def __init__(self, bounds: Iterable[float]) -> None:
        self.bounds = tuple(map(float, bounds))
        self.counts = [0] * (len(self.bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    @property
    def count(self) -> int:
        return sum(self.counts)


def _token_bounds(context_tokens: int) -> list[int]:
    """1, 2, 5, 10, 20, 50 … up to the context window, which is how vLLM chooses the bounds of its token histograms."""
    bounds: list[int] = []
    decade = 1
    while True:
        for digit in (1, 2, 5):
            if digit * decade > context_tokens:
                return bounds
            bounds.append(digit * decade)
        decade *= 10


class Tally:
    """Cumulative numbers of one engine; every attribute is a family of the metrics page without its prefix."""

    def __init__(self, context_tokens: int) -> None:
        tokens = _token_bounds(context_tokens)
        self.prefix_cache_queries = 0
        self.prefix_cache_hits = 0
        self.mm_cache_queries = 0
        self.mm_cache_hits = 0
        self.num_preemptions = 0
        self.prompt_tokens = 0
        self.prompt_tokens_cached = 0
        self.prompt_tokens_external = 0
        self.generation_tokens = 0
        self.admission_rejections = 0
        # Media that steps needed, by where they came from, and those that could not be put where others find them.
        self.encodings = dict.fromkeys(("computed", "cache", "storage"), 0)
        self.encodings_unsaved = 0
        self.request_success = dict.fromkeys(FINISHED_REASONS, 0)
        self.request_prompt_tokens = Histogram(tokens)
        self.request_generation_tokens = Histogram(tokens)
        self.request_params_max_tokens = Histogram(tokens)
        self.request_prefill_kv_computed_tokens = Histogram(tokens)
        self.iteration_tokens_total = Histogram(_STEP_TOKENS)
        self.request_num_preemptions = Histogram(_PREEMPTIONS)
        self.time_to_first_token_seconds = Histogram(_TTFT_S)
        self.inter_token_latency_seconds = Histogram(_TOKEN_S)
        self.request_time_per_output_token_seconds = Histogram(_TOKEN_S)
        self.e2e_request_latency_seconds = Histogram(_REQUEST_S)
        self.request_queue_time_seconds = Histogram(_REQUEST_S)
        self.request_inference_time_seconds = Histogram(_REQUEST_S)
        self.request_prefill_time_seconds = Histogram(_REQUEST_S)
        self.request_decode_time_seconds = Histogram(_REQUEST_S)
        # Second at which each combination of (running, waiting) adapters was last true; combinations are kept for ever.
        self.adapters_seen_s: dict[tuple[str, str], float] = {}

    def computed(self, sequence: Sequence, now_s: float) -> None:
        """Count the token that a computed prompt yields: the first one, or after a preemption the next."""
        self.generation_tokens += 1
        if sequence.generated:
            self.inter_token_latency_seconds.observe(now_s - sequence.last_s)
        else:
            self.prompt_tokens += sequence.prompt
            self.prompt_tokens_cached += sequence.cached
            self.prompt_tokens_external += sequence.cached * sequence.request.remote
            self.time_to_first_token_seconds.observe(now_s - sequence.arrived_s)

    def count(self, sequence: Sequence) -> None:
        """Count a request that has had its last token."""
        request = sequence.request
        admitted_s = sequence.arrived_s if sequence.admitted_s is None else sequence.admitted_s
        decode_s = sequence.last_s - sequence.first_s
        self.request_success[request.finish] += 1
        self.request_prompt_tokens.observe(sequence.prompt)
        self.request_generation_tokens.observe(sequence.generated)
        self.request_params_max_tokens.observe(sequence.output if request.max_tokens is None else request.max_tokens)
        self.request_prefill_kv_computed_tokens.observe(sequence.prompt - sequence.cached)
        self.request_num_preemptions.observe(sequence.preemptions)
        self.e2e_request_latency_seconds.observe(sequence.last_s - sequence.arrived_s)
        self.request_queue_time_seconds.observe(admitted_s - sequence.arrived_s)
        self.request_inference_time_seconds.observe(sequence.last_s - admitted_s)
        self.request_prefill_time_seconds.observe(sequence.first_s - admitted_s)
        self.request_decode_time_seconds.observe(decode_s)
        if sequence.generated > 1:
            self.request_time_per_output_token_seconds.observe(decode_s / (sequence.generated - 1))
