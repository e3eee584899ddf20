#!/usr/bin/env python3
"""Prometheus' own parser on /metrics, against vLLM's names and buckets: prometheus.py PROGRAM"""

import json
import sys
import urllib.request

import serving

serving.under_clients_python()

from prometheus_client.parser import text_string_to_metric_families  # noqa: E402
from serving import check  # noqa: E402

MAX_MODEL_LEN = 700
TOKENS = [1, 2, 5, 10, 20, 50, 100, 200, 500]
REQUEST = [.3, .5, .8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680]
TOKEN = [.01, .025, .05, .075, .1, .15, .2, .3, .4, .5, .75, 1, 2.5, 5, 7.5, 10, 20, 40, 80]
FIRST = [.001, .005, .01, .02, .04, .06, .08, .1, .25, .5, .75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640, 2560]
STEP = [1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384]
HISTOGRAMS = {
    "request_prompt_tokens": TOKENS, "request_generation_tokens": TOKENS, "request_max_num_generation_tokens": TOKENS,
    "request_params_max_tokens": TOKENS, "request_prefill_kv_computed_tokens": TOKENS,
    "request_params_n": [1, 2, 5, 10, 20], "iteration_tokens_total": STEP, "time_to_first_token_seconds": FIRST,
    "inter_token_latency_seconds": TOKEN, "time_per_output_token_seconds": TOKEN,
    "request_time_per_output_token_seconds": TOKEN, "e2e_request_latency_seconds": REQUEST,
    "request_queue_time_seconds": REQUEST, "request_inference_time_seconds": REQUEST,
    "request_prefill_time_seconds": REQUEST, "request_decode_time_seconds": REQUEST,
}
GAUGES = ["num_requests_running", "num_requests_waiting", "kv_cache_usage_perc", "gpu_cache_usage_perc",
          "cache_config_info"]
COUNTERS = ["prefix_cache_queries", "prefix_cache_hits", "gpu_prefix_cache_queries", "gpu_prefix_cache_hits",
            "num_preemptions", "prompt_tokens", "prompt_tokens_by_source", "prompt_tokens_cached",
            "prompt_tokens_recomputed", "generation_tokens", "request_success", "admission_rejections"]


def families(url):
    with urllib.request.urlopen(url + "/metrics") as page:
        check(page.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8", page.headers)
        return {family.name: family for family in text_string_to_metric_families(page.read().decode())}


def value(family, name, **labels):
    return sum(sample.value for sample in family.samples
               if sample.name == name and labels.items() <= sample.labels.items())


def test_histogram(family, bounds):
    check(family.type == "histogram", family)
    buckets = [sample for sample in family.samples if sample.name.endswith("_bucket")]
    check([float(sample.labels["le"]) for sample in buckets] == [*bounds, float("inf")], family.samples)
    counts = [sample.value for sample in buckets]
    check(counts == sorted(counts) and counts[-1] > 0, family.samples)
    check(counts[-1] == value(family, family.name + "_count"), family.samples)


def main():
    with serving.Server(sys.argv[1], "--max-model-len", str(MAX_MODEL_LEN), name="org/tiny \"x\"") as server:
        body = {"prompt": "The quick", "max_tokens": 5, "ignore_eos": True, "n": 2}
        request = urllib.request.Request(server.url + "/v1/completions", json.dumps(body).encode(),
                                         {"Content-Type": "application/json"})
        urllib.request.urlopen(request).close()
        page = families(server.url)
        for name in GAUGES:
            check(page["vllm:" + name].type == "gauge", name)
        for name in COUNTERS:
            check(page["vllm:" + name].type == "counter", name)
        for name, bounds in HISTOGRAMS.items():
            test_histogram(page["vllm:" + name], bounds)
        for family in page.values():
            for sample in family.samples:
                check(sample.labels["model_name"] == "org/tiny \"x\"" and sample.labels["engine"] == "0", sample)
        check(value(page["vllm:generation_tokens"], "vllm:generation_tokens_total") == 10, page)
        check(value(page["vllm:request_success"], "vllm:request_success_total", finished_reason="length") == 2, page)
        check(value(page["http_requests"], "http_requests_total", handler="/v1/completions", status="2xx") == 1, page)


main()
