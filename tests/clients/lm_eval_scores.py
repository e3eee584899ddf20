#!/usr/bin/env python3
"""EleutherAI's harness through the server, against the same accuracies without a server: lm_eval_scores.py PROGRAM"""

import json
import os
import re
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

import serving

serving.under_clients_python()

CACHE = tempfile.TemporaryDirectory()
os.environ.update(HF_HOME=CACHE.name, HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

import lm_eval  # noqa: E402
import lm_eval.tasks  # noqa: E402
import numpy  # noqa: E402
from serving import MODEL, check  # noqa: E402

TASKS = Path(__file__).parent / "tasks"
PROMPT = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
THINK_NOT = json.dumps({"enable_thinking": False})


def rows(name):
    return [json.loads(line) for line in (TASKS / name).read_text().splitlines()]


def post(url, path, body):
    request = urllib.request.Request(url + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


def run(program, *words):
    return subprocess.run([program, *words], check=True, capture_output=True, text=True).stdout


def evaluate(kind, url, task, **arguments):
    """Accuracy, and what the model said to each row."""
    model = {"model": "tiny", "base_url": url, "num_concurrent": 4, "max_length": 512, "tokenizer_backend": "remote"}
    tasks = lm_eval.tasks.TaskManager(include_path=str(TASKS), include_defaults=False)
    results = lm_eval.simple_evaluate(model=kind, model_args=model, tasks=[task], task_manager=tasks,
                                      bootstrap_iters=0, log_samples=True, **arguments)
    accuracy = next(value for key, value in results["results"][task].items()
                    if key.split(",")[0] in ("acc", "exact_match"))
    samples = sorted(results["samples"][task], key=lambda sample: sample["doc_id"])
    return accuracy, [sample["resps"] for sample in samples]


def sums_offline(program):
    """By `quern generate`, one question at a time."""
    right, texts = 0, []
    for row in rows("sums.jsonl"):
        answer = json.loads(run(program, "generate", str(MODEL), "--prompt", row["question"], "--no-thinking",
                                "--temperature", "0", "--max-tokens", "96", "--json"))
        texts.append(answer["text"])
        found = re.search("#### (-?[0-9]+)", answer["text"])
        right += bool(found) and found.group(1) == row["answer"]
    return right / len(texts), texts


def read_safetensors(path):
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8:8 + size])
    return {name: numpy.frombuffer(data, "<f4", offset=8 + size + tensor["data_offsets"][0],
                                   count=numpy.prod(tensor["shape"])).reshape(tensor["shape"])
            for name, tensor in header.items() if name != "__metadata__"}


def recall_offline(program, url):
    """By `quern logits`, which computes whole texts at once; the server is asked for token ids alone."""
    def tokens(text):
        return post(url, "/tokenize", {"prompt": text})["tokens"]

    texts, starts = [], []
    for row in rows("recall.jsonl"):
        prompt = PROMPT.format(row["question"])
        texts.append([tokens(prompt + choice) for choice in row["choices"]])
        starts.append(len(tokens(prompt)))
    with tempfile.TemporaryDirectory() as folder:
        ids, out = Path(folder) / "ids.json", Path(folder) / "logits.safetensors"
        ids.write_text(json.dumps([ids for choices in texts for ids in choices]))
        run(program, "logits", str(MODEL), "--tokens", str(ids), "-o", str(out))
        logits = read_safetensors(out)
    right, scores, text = 0, [], 0
    for choices, start in zip(texts, starts):
        scores.append([])
        for ids in choices:
            rows_of = logits[f"logits.{text}"].astype(numpy.float64)
            logprobs = rows_of - numpy.log(numpy.exp(rows_of).sum(1, keepdims=True))
            scores[-1].append(sum(logprobs[i - 1, ids[i]] for i in range(start, len(ids))))
            text += 1
        right += scores[-1][0] == max(scores[-1])
    return right / len(texts), scores


def test_chat(program, url):
    expected, texts = sums_offline(program)
    accuracy, said = evaluate("local-chat-completions", url + "/v1/chat/completions", "quern_sums",
                              apply_chat_template=True)
    print(f"sums: {accuracy} through the harness, {expected} without the server")
    check([answer[0][0] for answer in said] == texts, (said, texts))
    check(accuracy == expected, (accuracy, expected))
    check(expected > 0.5, "the model knows nothing; the test shows nothing")


def test_likelihoods(program, url):
    expected, scores = recall_offline(program, url)
    accuracy, said = evaluate("local-completions", url + "/v1/completions", "quern_recall")
    print(f"recall: {accuracy} through the harness, {expected} without the server")
    worst = max(abs(float(answer[0][0]) - score) for answers, row in zip(said, scores)
                for answer, score in zip(answers, row))
    print(f"log-likelihoods differ by {worst:.1e} at most")
    check(worst < 0.05, (said, scores))  # the server's cache is bfloat16
    check(accuracy == expected, (accuracy, expected))
    check(0.3 < expected, "the model knows nothing; the test shows nothing")


def main():
    program = sys.argv[1]
    os.chdir(TASKS)  # where the tasks look for their rows
    with serving.Server(program, "--default-chat-template-kwargs", THINK_NOT,
                        "--enable-tokenizer-info-endpoint") as server:
        test_chat(program, server.url)
        test_likelihoods(program, server.url)


main()
