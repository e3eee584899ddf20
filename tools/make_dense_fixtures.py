#!/usr/bin/env python3
"""Makes tests/data/qwen3 and tests/data/llama: tiny random checkpoints of the dense models, and what
transformers computes with them in fp32. Needs torch, transformers and safetensors; run it from the
root of the repository. A second run with the same versions gives the same files.

config.json has the keys and spellings of published checkpoints (rope_theta and rope_scaling at the
top; Llama's head_dim is left out)."""
import json
import math
import pathlib

import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

OUT = pathlib.Path("tests/data")
VOCABULARY = 512  # of the tokenizer in tests/data/qwen36
FIRST_TEXT_ID = 32
PROMPTS = (7, 33)  # tokens
GREEDY_STEPS = 12

COMMON = {
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 2,
    "eos_token_id": 1,
    "hidden_act": "silu",
    "hidden_size": 64,
    "initializer_range": 0.02,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "vocab_size": VOCABULARY,
}
CONFIGS = {
    # Queries are wider than the hidden state, as in Qwen3-0.6B; the head is a separate matrix.
    "qwen3": COMMON | {
        "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "head_dim": 32,
        "max_position_embeddings": 4096, "max_window_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "intermediate_size": 96, "rms_norm_eps": 1e-6, "rope_scaling": None, "rope_theta": 1000000,
        "sliding_window": None, "tie_word_embeddings": False, "use_sliding_window": False,
    },
    # With these limits the rotary frequencies fall in all three bands of llama3's scaling: two stay,
    # one is blended, the rest are divided. The head is the embedding, as in Llama-3.2-1B.
    "llama": COMMON | {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "max_position_embeddings": 2048,
        "mlp_bias": False, "num_attention_heads": 2, "num_key_value_heads": 1, "pretraining_tp": 1,
        "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "tie_word_embeddings": True,
        "rope_scaling": {"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
                         "original_max_position_embeddings": 64, "rope_type": "llama3"},
    },
}


def randomize(model, seed):
    """Norms away from 1, matrices with unit gain: neutral values would hide missing norms."""
    generator = torch.Generator().manual_seed(seed)
    for name, weight in model.state_dict().items():
        noise = torch.randn(weight.shape, generator=generator)
        if weight.dim() == 1:
            value = (1 + 0.2 * noise).clamp(min=0.25)
        elif "embed" in name:
            value = noise
        else:
            value = noise * (4 if "lm_head" in name else 1) / math.sqrt(weight.shape[1])
        if name == "model.norm.weight":  # a tied random head would repeat the last token
            value *= torch.randn(weight.shape, generator=generator).sign()
        weight.copy_(value.to(torch.bfloat16).float())


@torch.no_grad()
def greedy(model, ids):
    chosen, rows = [], []
    for _ in range(GREEDY_STEPS):
        row = model(input_ids=torch.tensor([ids + chosen]), use_cache=False).logits[0, -1]
        rows.append(row)
        chosen.append(int(row.argmax()))
    return torch.tensor(chosen, dtype=torch.int32), torch.stack(rows)


@torch.no_grad()
def goldens(model):
    tensors = {}
    for i, length in enumerate(PROMPTS):
        generator = torch.Generator().manual_seed(i)
        ids = torch.randint(FIRST_TEXT_ID, VOCABULARY, (length,), generator=generator).tolist()
        out = model(input_ids=torch.tensor([ids]), output_hidden_states=True, use_cache=False)
        tensors[f"p{i}.input_ids"] = torch.tensor(ids, dtype=torch.int32)
        tensors[f"p{i}.logits"] = out.logits[0]
        tensors[f"p{i}.greedy_ids"], tensors[f"p{i}.greedy_logits"] = greedy(model, ids)
        # transformers' last hidden state comes after the final norm.
        for layer, hidden in enumerate(out.hidden_states[:-1]):
            tensors[f"p{i}.hidden.{layer}"] = hidden[0]
        tensors[f"p{i}.final_norm"] = out.hidden_states[-1][0]
    return {name: tensor.clone().contiguous() for name, tensor in tensors.items()}


def main():
    torch.set_num_threads(1)
    for seed, (name, config) in enumerate(CONFIGS.items()):
        folder = OUT / name
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        model = AutoModelForCausalLM.from_config(
            AutoConfig.from_pretrained(folder), dtype=torch.float32, attn_implementation="eager").eval()
        with torch.no_grad():
            randomize(model, seed)
        model.tie_weights()
        weights = {key: value.to(torch.bfloat16).contiguous() for key, value in model.state_dict().items()
                   if not (config["tie_word_embeddings"] and key == "lm_head.weight")}
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        save_file(goldens(model), folder / "golden.safetensors")
        for file in folder.iterdir():
            file.chmod(0o644)
        print(name, model.config.rope_parameters, {key: list(value.shape) for key, value in weights.items()})


if __name__ == "__main__":
    main()
