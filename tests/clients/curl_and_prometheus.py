#!/usr/bin/env python3
"""The curl line of a published card, word for word, and Prometheus' parser: curl_and_prometheus.py PROGRAM"""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import serving

serving.under_clients_python()

from prometheus_client.parser import text_string_to_metric_families  # noqa: E402
from serving import check  # noqa: E402


def card_command():
    assets = Path(os.environ.get("QUERN_ASSETS") or serving.SOURCE.parent / "shared")
    for card in sorted(assets.glob("cards/*.txt")):
        text = card.read_text()
        if "curl http://localhost:8000/v1/chat/completions" in text:
            begin = text.index("curl http://localhost:8000")
            # A shell joins lines that end in a backslash; shlex does not.
            return text[begin:text.index("}'", begin) + 2].replace("\\\n", " ")
    return None


def curl(words):
    return subprocess.run(["curl", "-sS", *words], check=True, capture_output=True, text=True).stdout


def test_metrics(url):
    families = {family.name: family for family in text_string_to_metric_families(curl([url + "/metrics"]))}
    for name, kind in [("vllm:num_requests_running", "gauge"), ("vllm:generation_tokens", "counter"),
                       ("vllm:time_to_first_token_seconds", "histogram"), ("vllm:request_success", "counter")]:
        check(families[name].type == kind, f"{name} is {families[name].type}")
    labels = families["vllm:kv_cache_usage_perc"].samples[0].labels
    check(labels == {"model_name": ".", "engine": "0"}, labels)
    ended = sum(sample.value for sample in families["vllm:request_success"].samples)
    check(ended == 1, ended)


def main():
    command = card_command()
    if not command or not shutil.which("curl"):
        serving.skip("no cards in $QUERN_ASSETS or ../shared, or no curl")
    with serving.Server(sys.argv[1], name=".") as server:
        words = shlex.split(command.replace("http://localhost:8000", server.url))
        answer = json.loads(curl(words[1:]))
        check(answer["model"] == "." and answer["choices"][0]["finish_reason"] in ("stop", "length"), answer)
        test_metrics(server.url)


main()
