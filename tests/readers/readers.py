"""What the tests of independent readers share: artifacts that `quern compress` makes of the checkpoints in tests/data, what
`quern logits` says of them, and the comparison with what a reader computes."""

import json
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file

SOURCE = Path(__file__).resolve().parents[2]
# Short: rounding decides for another expert where two are nearly as good, and then later tokens differ too.
PROMPT = [40, 41, 97, 33, 70, 55, 34, 90]

# Both programs compute in fp32 from the same codes and scales. quern rounds what a packed matrix multiplies to 16-bit
# integers; auto-round's CPU layers keep other weights in fp16. Relative to the standard deviation of the logits.
LIMIT = 5e-3


def assets():
    """Fixtures that are no part of the project."""
    return Path(os.environ.get("QUERN_ASSETS") or SOURCE.parent / "shared")


@dataclass
class Case:
    family: str  # a folder of tests/data
    options: list = field(default_factory=list)  # of compress
    modifiers: list = field(default_factory=list)  # of a recipe; none: round-to-nearest

    def __str__(self):
        return " ".join([self.family, *self.options, *self.modifiers])

    def method(self, scratch):
        """The options that choose the method; files go into the folder `scratch`."""
        if not self.modifiers:
            return ["--method", "rtn", "--group-size", "32"]
        weights = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 32}
        scheme = {"config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}}, "ignore": ["lm_head"]}
        steps = {name: {} for name in self.modifiers[:-1]} | {self.modifiers[-1]: scheme}
        recipe, rows = scratch / "recipe.json", scratch / "rows.jsonl"
        recipe.write_text(json.dumps({"a_stage": {"a_modifiers": steps}}))
        ids = [[(7 * row + 3 * i + i * i) % 200 + 40 for i in range(32)] for row in range(8)]
        rows.write_text("".join(json.dumps({"input_ids": row}) + "\n" for row in ids))
        return ["--recipe", recipe, "--data", rows, "--seqlen", "32", "--nsamples", "8"]


# Every family that transformers has; with a head of its own and with a tied one; whole blocks and parts of them.
CASES = [
    Case("qwen36"),
    Case("qwen36", ["--ignore", "self_attn", "--ignore", "linear_attn.in_proj_a", "--ignore", "linear_attn.in_proj_b"]),
    Case("qwen36_split_experts"),
    Case("gemma4"),
    Case("gemma4", ["--ignore", "self_attn", "--drop-unused"]),
    Case("gemma4_resaved", ["--ignore", "self_attn"]),
    Case("glm45"),
    Case("glm45", ["--ignore", "self_attn", "--layer-config", "shared_experts=group_size:64"]),
    Case("llama"),
    Case("qwen3"),
]

# Tensors that transformers does not load: draft layers.
UNREAD = ("mtp.", "model.layers.3.")


def in_fp32(source, folder):
    """A copy of a checkpoint."""
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("*.safetensors*", "golden*"))
    tensors = {}
    for file in source.glob("model*.safetensors"):
        tensors |= {name: x.float() for name, x in load_file(file).items()}
    save_file(tensors, folder / "model.safetensors")
    return folder


class Job:
    """An artifact in a folder of its own, and quern's logits for PROMPT. The source is in fp32, because transformers
    rounds what it decodes to the dtype of the scales, which is that of the source."""

    def __init__(self, program, case, format):
        self.case, self.format = case, format
        self._scratch = tempfile.TemporaryDirectory(prefix="quern-readers-")
        scratch = Path(self._scratch.name)
        self.folder = scratch / "out"
        self.source = in_fp32(SOURCE / "tests/data" / case.family, scratch / "source")
        self._quern(program, "compress", self.source, "-o", self.folder, *case.method(scratch), "--format", format,
                    "--no-quality-gate", *case.options)
        ids, logits = self.folder.with_name("ids.json"), self.folder.with_name("logits.safetensors")
        ids.write_text(json.dumps([PROMPT]))
        self._quern(program, "logits", self.folder, "--tokens", ids, "-o", logits)
        self.logits = load_file(logits)["logits.0"]

    @staticmethod
    def _quern(*command):
        ran = subprocess.run([str(word) for word in command], capture_output=True, text=True)
        if ran.returncode != 0:
            raise RuntimeError(f"{' '.join(map(str, command))}: exit {ran.returncode}\n{ran.stderr}")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._scratch.cleanup()


def run_cases(program, formats, cases, reader, logits_of):
    """Prints a row for each case; the exit status is 1 if one of them fails. logits_of(job): [tokens, vocabulary]."""
    failed = False
    for format in formats:
        for case in cases:
            try:
                with Job(program, case, format) as job:
                    apart = (logits_of(job) - job.logits).abs().max() / job.logits.std()
                result, bad = f"{apart:.1e} of the logits' standard deviation", not apart <= LIMIT
            except Exception as error:  # noqa: BLE001: a reader may fail in any way, and the others are still asked
                result, bad = f"{type(error).__name__}: {error}", True
            failed |= bad
            print(f"{'FAILED' if bad else 'ok':7}{format:20}{reader:46}{case}: {result}", flush=True)
    return failed


def load(job, unexpected=(), **options):
    """The model of config.json by transformers, in fp32. Fails on a tensor that is missing or not expected, except those
    whose name ends in one of `unexpected`."""
    architecture = json.loads((job.folder / "config.json").read_text())["architectures"][0]
    model, info = getattr(transformers, architecture).from_pretrained(
        job.folder, dtype=torch.float32, output_loading_info=True, **options
    )
    info["unexpected_keys"] = [
        name for name in info["unexpected_keys"] if not name.startswith(UNREAD) and not name.endswith(tuple(unexpected))
    ]
    wrong = {key: sorted(names)[:3] for key, names in info.items() if names}
    if wrong:
        raise RuntimeError(f"{architecture}: {wrong}")
    return torch.nn.Module.float(model).eval()  # transformers forbids the method on quantized models


def logits(model):
    with torch.no_grad():
        return model(input_ids=torch.tensor([PROMPT]), use_cache=False).logits[0].float()
