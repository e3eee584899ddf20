"""The Python that a test of a reader runs under, which tools/setup_readers makes."""

import os
import sys
from pathlib import Path

SKIPPED = 77  # what CTest takes for "skipped"


def skip(why):
    print("skipped:", why)
    sys.exit(SKIPPED)


def under_reader(name):
    """Runs the calling script again with the packages of tests/readers/<name>.txt."""
    cache = Path(os.environ.get("QUERN_CACHE") or Path.home() / ".cache/quern") / "readers"
    python = cache / name / "bin/python"
    if Path(sys.prefix) == python.parents[1]:
        return
    if not (cache / f"{name}.stamp").exists():
        skip(f"the packages of tests/readers/{name}.txt are not installed: run tools/setup_readers")
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "CUDA_VISIBLE_DEVICES": ""}
    os.execve(python, [str(python), *sys.argv], os.environ | offline | {"LD_LIBRARY_PATH": str(cache / "stubs")})
