"""The metrics page is the recorded page of a real vLLM, as far as the engine model goes."""

from prometheus_client.parser import text_string_to_metric_families

from shunter.lab.testing import lab_server

# As the recorded server was started.
RECORDED = {
    "models": ["tiny"],
    "enable_lora": True,
    "max_loras": 2,
    "block_size": 32,
    "num_blocks": 256,
    "max_model_len": 2048,
    "max_num_seqs": 4,
    "speed": 100.0,
}


def schema(page):
    """Family name → type, help text, and the labels of every sample (bucket bounds included, values of info labels not)."""
    found = {}
    for family in text_string_to_metric_families(page):
        if not family.name.startswith("vllm:"):
            continue
        series = set()
        for sample in family.samples:
            keep = {"le", "reason", "source", "finished_reason", "engine", "model_name"}
            series.add((sample.name, *(f"{k}={v if k in keep else ''}" for k, v in sorted(sample.labels.items()))))
        found[family.name] = (family.type, family.documentation, series)
    return found


async def page_of(http, server):
    async with http.get(f"{server.url}/metrics") as response:
        assert response.status == 200
        return await response.text()


def value(page, name, **labels):
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            if sample.name == name and labels.items() <= sample.labels.items():
                return sample.value
    raise AssertionError(f"no {name} {labels}")


async def test_every_family_has_the_name_type_help_labels_and_buckets_of_the_real_one(http, recorded):
    async with lab_server(**RECORDED) as server:
        ours, real = schema(await page_of(http, server)), schema(recorded("vllm-before"))
    (info_type, info_help, info_series) = ours.pop("vllm:cache_config_info")
    for name, family in ours.items():
        assert family == real[name]
    assert (info_type, info_help) == real["vllm:cache_config_info"][:2]
    (ours_labels,), (real_labels,) = info_series, real["vllm:cache_config_info"][2]
    assert set(ours_labels) <= set(real_labels)


async def test_what_consumers_read_is_there(http):
    needed = {
        *("vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc"),
        *("vllm:prefix_cache_queries", "vllm:prefix_cache_hits", "vllm:prompt_tokens", "vllm:generation_tokens"),
        *("vllm:request_success", "vllm:num_preemptions", "vllm:cache_config_info", "vllm:lora_requests_info"),
        *("vllm:time_to_first_token_seconds", "vllm:inter_token_latency_seconds", "vllm:request_queue_time_seconds"),
        *("vllm:e2e_request_latency_seconds", "vllm:request_prompt_tokens", "vllm:request_generation_tokens"),
    }
    async with lab_server(**RECORDED) as server:
        assert needed <= schema(await page_of(http, server)).keys()


async def test_without_lora_there_is_no_lora_family(http):
    async with lab_server(models=["tiny"]) as server:
        assert "vllm:lora_requests_info" not in schema(await page_of(http, server))


async def test_the_cache_info_values_are_those_of_the_real_page(http, recorded):
    async with lab_server(**RECORDED) as server:
        pages = await page_of(http, server), recorded("vllm-before")
    infos = [
        sample.labels
        for page in pages
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.name == "vllm:cache_config_info"
    ]
    assert infos[0].items() <= infos[1].items()


async def test_gauges_follow_a_load_of_more_requests_than_seats(http, until):
    """16 requests on 4 seats: 4 run and 12 wait, KV rises, and hanging up brings all three to exactly zero."""
    async with lab_server(**{**RECORDED, "speed": 1.0}) as server:
        body = {"prompt": "load", "max_tokens": 2000, "ignore_eos": True, "stream": True}
        streams = [await http.post(f"{server.url}/v1/completions", json=body) for _ in range(16)]

        async def gauges():
            page = await page_of(http, server)
            names = ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc")
            running, waiting, kv = (value(page, f"vllm:{name}") for name in names)
            assert value(page, "vllm:num_requests_waiting_by_reason", reason="capacity") == waiting
            return running, waiting, kv

        async def saturated():
            running, waiting, kv = await gauges()
            assert running + waiting <= 16, "every stream is open, none has ended; the figures may be a step old"
            return (running, waiting) == (4, 12) and kv > 0

        async def idle():
            return await gauges() == (0, 0, 0)

        await until(saturated)
        for stream in streams:
            stream.close()
        await until(idle)


async def test_counters_equal_what_the_client_saw(http):
    async with lab_server(**RECORDED) as server:
        usages = []
        for stop in ([], [], [" zzz"]):
            body = {"prompt": "the same prompt " * 40, "max_tokens": 7, "ignore_eos": True, "stop": stop}
            async with http.post(f"{server.url}/v1/completions", json=body) as response:
                usages.append((await response.json())["usage"])
        page = await page_of(http, server)
    assert value(page, "vllm:prompt_tokens_total") == sum(usage["prompt_tokens"] for usage in usages)
    assert value(page, "vllm:generation_tokens_total") == sum(usage["completion_tokens"] for usage in usages) == 21
    assert value(page, "vllm:request_success_total", finished_reason="length") == 3
    full_blocks = (usages[0]["prompt_tokens"] - 1) // 32 * 32
    assert full_blocks > 0
    assert value(page, "vllm:prefix_cache_hits_total") == 2 * full_blocks
    assert value(page, "vllm:prompt_tokens_by_source_total", source="local_cache_hit") == 2 * full_blocks
    assert value(page, "vllm:e2e_request_latency_seconds_count") == 3


async def test_lora_series_name_running_and_waiting_adapters_and_the_newest_is_true(http, until):
    async with lab_server(**{**RECORDED, "speed": 1.0}, loras=["a", "b", "c"]) as server:
        body = {"prompt": "load", "max_tokens": 2000, "ignore_eos": True, "stream": True}
        streams = [await http.post(f"{server.url}/v1/completions", json={**body, "model": name}) for name in "abc"]

        async def newest():
            series = [
                (sample.value, sample.labels)
                for family in text_string_to_metric_families(await page_of(http, server))
                for sample in family.samples
                if sample.name == "vllm:lora_requests_info"
            ]
            return max(series, key=lambda one: one[0])[1]

        async def settled():
            return await newest() == {"max_lora": "2", "running_lora_adapters": "a,b", "waiting_lora_adapters": "c"}

        async def idle():
            return await newest() == {"max_lora": "2", "running_lora_adapters": "", "waiting_lora_adapters": ""}

        await until(settled)
        for stream in streams:
            stream.close()
        await until(idle)


async def test_a_full_queue_answers_503_and_is_counted(http, until):
    async with lab_server(max_num_seqs=1, max_num_queued_reqs=1, speed=1.0) as server:
        body = {"prompt": "x", "max_tokens": 2000, "ignore_eos": True, "stream": True}
        streams = [await http.post(f"{server.url}/v1/completions", json=body) for _ in range(2)]
        async with http.post(f"{server.url}/v1/completions", json={"prompt": "x"}) as response:
            assert response.status == 503
            assert (await response.json())["error"]["type"] == "ServiceUnavailableError"
        page = await page_of(http, server)
        assert value(page, "vllm:admission_rejections_total", reason="max_num_queued_reqs") == 1
        for stream in streams:
            stream.close()


async def test_two_servers_in_one_process_do_not_share_numbers(http):
    async with lab_server(speed=100) as one, lab_server(speed=100) as other:
        async with http.post(f"{one.url}/v1/completions", json={"prompt": "x"}) as response:
            assert (await response.json())["system_fingerprint"] == f"lab-{one.port}"
        assert value(await page_of(http, one), "vllm:prompt_tokens_total") == 1
        assert value(await page_of(http, other), "vllm:prompt_tokens_total") == 0
