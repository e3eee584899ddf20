#!/usr/bin/env python3
"""Seconds of one AutoRound iteration of one block by auto-round, for comparison with compress_bench.

    python bench/peer_autoround.py CHECKPOINT [--samples 8] [--length 256] [--iterations 6] [--threads 2]

Needs auto-round, transformers, torch and torchvision from PyPI. CHECKPOINT has one block (bench/README.md). The model runs
the samples through auto-round's own tuning twice, with few and with more iterations; the difference is what iterations cost.
Prints one JSON line.
"""
import argparse
import json
import os
import time

parser = argparse.ArgumentParser()
parser.add_argument("checkpoint")
parser.add_argument("--samples", type=int, default=8)
parser.add_argument("--length", type=int, default=256)
parser.add_argument("--iterations", type=int, default=6)
parser.add_argument("--threads", type=int, default=2)
options = parser.parse_args()
os.environ["OMP_NUM_THREADS"] = str(options.threads)
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["AR_DISABLE_COPY_MTP_WEIGHTS"] = "1"

import torch  # noqa: E402  (after the number of threads is set)

torch.set_num_threads(options.threads)


def tune(iterations):
    from auto_round import AutoRound
    from transformers import AutoConfig, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(options.checkpoint)
    vocabulary = AutoConfig.from_pretrained(options.checkpoint).get_text_config().vocab_size
    generator = torch.Generator().manual_seed(1)
    rows = [torch.randint(16, vocabulary, (1, options.length), generator=generator) for _ in range(options.samples)]
    data = [{"input_ids": ids, "attention_mask": torch.ones_like(ids)} for ids in rows]
    tuner = AutoRound(options.checkpoint, tokenizer, scheme="W4A16", group_size=128, iters=iterations,
                      nsamples=options.samples, seqlen=options.length, batch_size=options.samples, dataset=data, enable_torch_compile=False,
                      device_map="cpu", seed=42)
    start = time.time()
    tuner.quantize()
    return time.time() - start


few, more = 1, 1 + options.iterations
seconds = (tune(more) - tune(few)) / options.iterations
print(json.dumps({"benchmark": "autoround_iteration", "tool": "auto-round", "threads": options.threads,
                  "tokens": options.samples * options.length, "seconds": seconds}))
