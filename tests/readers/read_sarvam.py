"""compressed-tensors reads a Sarvam artifact, which transformers has no class for: it decodes a skeleton of Linears that has
the names of the checkpoint, and a reference implementation that is no part of the project computes the logits."""

import json
import sys
from importlib.metadata import version

import environment

environment.under_reader("compressed_tensors")

import readers  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from compressed_tensors.compressors import ModelCompressor  # noqa: E402
from compressed_tensors.quantization import apply_quantization_config  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

REFERENCE = readers.assets() / "fixtures/tools"
if not (REFERENCE / "sarvam_reference.py").exists():
    environment.skip(f"{REFERENCE}/sarvam_reference.py is not there: set QUERN_ASSETS")
sys.path.append(str(REFERENCE))
from sarvam_reference import SarvamReference  # noqa: E402

CASES = [readers.Case("sarvam"), readers.Case("sarvam", ["--ignore", "attention"]), readers.Case("sarvam", ["--asym"])]


def skeleton(tensors):
    """Empty modules that hold parameters of these names: Linears where they are matrices."""
    root = torch.nn.Module()
    for name, x in sorted(tensors.items(), key=lambda item: not item[0].endswith(".weight")):
        *path, parameter = name.split(".")
        parent = root
        for part in path[:-1]:
            if part not in parent._modules:
                parent.add_module(part, torch.nn.Module())
            parent = parent._modules[part]
        if path[-1] not in parent._modules:
            linear = parameter == "weight" and x.dim() == 2 and "embed" not in path[-1]
            new = torch.nn.Linear(x.shape[1], x.shape[0], bias=False) if linear else torch.nn.Module()
            parent.add_module(path[-1], new)
        module = parent._modules[path[-1]]
        if not hasattr(module, parameter):
            module.register_parameter(parameter, torch.nn.Parameter(torch.empty_like(x)))
    return root


def logits_of(job):
    config = json.loads((job.folder / "config.json").read_text())
    given = transformers.CompressedTensorsConfig(**config["quantization_config"])
    compressor = ModelCompressor.from_compression_config(given)
    model = skeleton(load_file(job.source / "model.safetensors"))
    apply_quantization_config(model, compressor.quantization_config, run_compressed=False)
    compressor.compress_model(model)
    model.load_state_dict(load_file(job.folder / "model.safetensors"), strict=True)
    compressor.decompress_model(model)
    return SarvamReference(config, dict(model.named_parameters())).forward(readers.PROMPT)[0]


if __name__ == "__main__":
    name = f"compressed-tensors {version('compressed-tensors')}, own reference"
    sys.exit(readers.run_cases(sys.argv[1], ["compressed-tensors"], CASES, name, logits_of))
