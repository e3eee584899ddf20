#!/usr/bin/env python3
"""Makes tests/data/gemma4_moe: a tiny random checkpoint of Gemma 4 in the form of its 26B-A4B size (experts beside the
dense MLP, values that are keys in the blocks of full attention, no embeddings for each layer), and what transformers
computes with it in fp32. Needs torch, transformers and safetensors; run it from the root of the repository. A second run
with the same versions gives the same files."""
import json
import math
import pathlib

import torch
from safetensors.torch import save_file
from transformers import Gemma4Config, Gemma4ForConditionalGeneration

from make_dense_fixtures import goldens

OUT = pathlib.Path("tests/data/gemma4_moe")
SLIDING, FULL = "sliding_attention", "full_attention"
TEXT = {
    "attention_bias": False, "attention_k_eq_v": True, "bos_token_id": 2, "enable_moe_block": True, "eos_token_id": 1,
    "final_logit_softcapping": 30.0, "global_head_dim": 64, "head_dim": 32, "hidden_activation": "gelu_pytorch_tanh",
    "hidden_size": 64, "hidden_size_per_layer_input": 0, "intermediate_size": 96,
    "layer_types": [SLIDING, FULL, SLIDING, FULL], "max_position_embeddings": 4096, "model_type": "gemma4_text",
    "moe_intermediate_size": 32, "num_attention_heads": 4, "num_experts": 8, "num_global_key_value_heads": 1,
    "num_hidden_layers": 4, "num_key_value_heads": 2, "num_kv_shared_layers": 0, "pad_token_id": 0, "rms_norm_eps": 1e-6,
    "rope_parameters": {FULL: {"partial_rotary_factor": 0.25, "rope_theta": 1000000.0, "rope_type": "proportional"},
                        SLIDING: {"rope_theta": 10000.0, "rope_type": "default"}},
    "sliding_window": 8, "tie_word_embeddings": True, "top_k_experts": 3, "use_bidirectional_attention": "vision",
    "vocab_size": 512, "vocab_size_per_layer_input": 512,
}
CONFIG = {
    "architectures": ["Gemma4ForConditionalGeneration"], "audio_config": None, "audio_token_id": 17, "boi_token_id": 12,
    "dtype": "bfloat16", "eoi_token_id": 13, "image_token_id": 14, "model_type": "gemma4", "text_config": TEXT,
    "tie_word_embeddings": True, "video_token_id": 15, "vision_config": None,
}


def randomize(model, seed):
    """Norms, scales and the router's factors away from 1, matrices with unit gain."""
    generator = torch.Generator().manual_seed(seed)
    for name, weight in model.state_dict().items():
        noise = torch.randn(weight.shape, generator=generator)
        if weight.dim() == 1:
            value = (1 + 0.2 * noise).clamp(min=0.25)
        elif "embed" in name:
            value = noise / 3
        else:
            value = noise / math.sqrt(weight.shape[-1])
        if name.endswith("router.scale"):  # far enough apart that a router without it chooses others
            value = value * 2
        if name.endswith("language_model.norm.weight"):  # a tied random head would repeat the last token
            value *= torch.randn(weight.shape, generator=generator).sign()
        weight.copy_(value.to(torch.bfloat16).float())


def main():
    torch.set_num_threads(1)
    OUT.mkdir(exist_ok=True)
    (OUT / "config.json").write_text(json.dumps(CONFIG, indent=2) + "\n")
    config = Gemma4Config.from_pretrained(OUT)
    config._attn_implementation = "eager"
    model = Gemma4ForConditionalGeneration(config).float().eval()
    with torch.no_grad():
        randomize(model, 26)
    model.tie_weights()
    weights = {key: value.to(torch.bfloat16).contiguous() for key, value in model.state_dict().items()
               if key != "lm_head.weight"}
    save_file(weights, OUT / "model.safetensors", metadata={"format": "pt"})
    save_file(goldens(model), OUT / "golden.safetensors")
    for file in OUT.iterdir():
        file.chmod(0o644)
    for key, value in weights.items():
        print(key, list(value.shape))


if __name__ == "__main__":
    main()
