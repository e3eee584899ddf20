"""transformers and compressed-tensors read what --format compressed-tensors writes. Two things transformers cannot put
together: the experts of Gemma 4 when each has matrices of its own, and others that are not quantized and split."""

import sys
from importlib.metadata import version

import environment

environment.under_reader("compressed_tensors")

import readers  # noqa: E402


def logits_of(job):
    return readers.logits(readers.load(job))


if __name__ == "__main__":
    name = f"transformers {version('transformers')}, compressed-tensors {version('compressed-tensors')}"
    cases = [
        *readers.CASES,
        readers.Case("gemma4_moe", ["--ignore", "experts"]),
        readers.Case("qwen3", ["--asym"]),
        # These change norms, routers and other tensors that stay in 16 bits.
        readers.Case("glm45", modifiers=["AWQModifier", "QuantizationModifier"]),
        readers.Case("qwen36", modifiers=["SmoothQuantModifier", "AWQModifier", "GPTQModifier"]),
    ]
    sys.exit(readers.run_cases(sys.argv[1], ["compressed-tensors"], cases, name, logits_of))
