#!/usr/bin/env python3
"""Runs a fuzz target for FUZZ_SECONDS (3): run_target.py TARGET SEEDS CORPUS

It starts from the random seed FUZZ_SEED: 1, so that a test does not depend on luck; 0 chooses a new seed every time.

The corpus grows in CORPUS; an input that breaks the target is stored next to it, and the command to reproduce the failure is printed.
"""

import os
import subprocess
import sys
from pathlib import Path

LIMITS = ["-timeout=5", "-rss_limit_mb=1024", "-malloc_limit_mb=256"]


def main():
    target, seeds, corpus = sys.argv[1:]
    found = Path(corpus).parent / f"{Path(corpus).name}-failures"
    for folder in (Path(corpus), found):
        folder.mkdir(parents=True, exist_ok=True)
    before = set(found.iterdir())
    seconds = os.environ.get("FUZZ_SECONDS", "3")
    seed = os.environ.get("FUZZ_SEED", "1")
    status = subprocess.run([target, f"-max_total_time={seconds}", f"-seed={seed}", "-print_final_stats=1", "-verbosity=0",
                             f"-artifact_prefix={found}/", *LIMITS, corpus, seeds]).returncode
    for file in sorted(set(found.iterdir()) - before):
        print(f"reproduce: {target} {' '.join(LIMITS)} {file}")
    return 1 if status else 0


sys.exit(main())
