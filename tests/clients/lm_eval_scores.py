#!/usr/bin/env python3
"""EleutherAI's harness through the server against the same sums done by hand: lm_eval_scores.py PROGRAM"""

import json
import os
import sys
import tempfile
import urllib.request
from pathlib import Path

import serving

serving.under_clients_python()

os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

import lm_eval  # noqa: E402
import lm_eval.tasks  # noqa: E402
from serving import check  # noqa: E402

QUESTIONS = 20
# What a question may be answered with, the first being right; made so that no answer is another's begin.
TASK = """
task: quern_sums
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: choices
doc_to_target: 0
metric_list: [{{metric: acc}}]
"""


def rows():
    made = []
    for i in range(QUESTIONS):
        a, b = 3 + i, 2 * i + 1
        made.append({"question": f"<|im_start|>user\nWhat is {a} + {b}?<|im_end|>\n<|im_start|>assistant\n"
                                 "<think>\n\n</think>\n\n",
                     "choices": [f"{a} + {b} = {a + b}", f"{a} + {b} = {a + b + 7}", f"{a} - {b} = {a + b}"]})
    return made


def post(url, path, body):
    request = urllib.request.Request(url + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


def by_hand(url, made):
    """Share of the questions whose first answer is the likeliest."""
    right = 0
    for row in made:
        sums = []
        start = len(post(url, "/tokenize", {"prompt": row["question"]})["tokens"])
        for choice in row["choices"]:
            tokens = post(url, "/tokenize", {"prompt": row["question"] + choice})["tokens"]
            scored = post(url, "/v1/completions", {"prompt": tokens, "max_tokens": 1, "prompt_logprobs": 0})
            lines = scored["choices"][0]["prompt_logprobs"]
            sums.append(sum(lines[i][str(tokens[i])]["logprob"] for i in range(start, len(tokens))))
        right += sums[0] == max(sums)
    return right / len(made)


def main():
    made = rows()
    with (serving.Server(sys.argv[1], "--enable-tokenizer-info-endpoint") as server,
          tempfile.TemporaryDirectory() as folder):
        os.environ["HF_HOME"] = folder
        data = Path(folder) / "rows.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in made))
        (Path(folder) / "quern_sums.yaml").write_text(TASK.format(rows=data))
        expected = by_hand(server.url, made)
        model_args = {"model": "tiny", "base_url": server.url + "/v1/completions", "num_concurrent": 4,
                      "tokenizer_backend": "remote", "max_length": 512}
        tasks = lm_eval.tasks.TaskManager(include_path=folder, include_defaults=False)
        results = lm_eval.simple_evaluate(model="local-completions", model_args=model_args, tasks=["quern_sums"],
                                          task_manager=tasks, bootstrap_iters=0)
        accuracy = results["results"]["quern_sums"]["acc,none"]
        print(f"accuracy {accuracy} through the harness, {expected} by hand")
        check(abs(accuracy - expected) < 1e-9, (accuracy, expected))
        check(expected > 0.3, "the model knows nothing; the test shows nothing")


main()
