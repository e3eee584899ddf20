"""transformers and auto-round read what --format auto_gptq and --format gptq write. auto-round has no layer for zero points
that runs without a package of its own, so symmetric ones only."""

import sys
from importlib.metadata import version

import environment

environment.under_reader("auto_round")

import readers  # noqa: E402
import transformers  # noqa: E402


def logits_of(job):
    if job.format == "auto_gptq":
        return readers.logits(readers.load(job))
    # auto-round's reader takes GPTQ's own layout when it is asked for; its layers have no groups of columns by name.
    options = {"quantization_config": transformers.AutoRoundConfig()}
    return readers.logits(readers.load(job, unexpected=[".g_idx"], **options))


if __name__ == "__main__":
    name = f"transformers {version('transformers')}, auto-round {version('auto-round')}"
    failed = readers.run_cases(sys.argv[1], ["auto_gptq"], [*readers.CASES, readers.Case("gemma4_moe")], name, logits_of)
    failed |= readers.run_cases(sys.argv[1], ["gptq"], readers.CASES[::3], name, logits_of)
    sys.exit(failed)
