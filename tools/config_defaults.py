#!/usr/bin/env python3
"""Makes tests/data/config_defaults.json: what the reference implementations take for each key of each fixture's
config.json when the key is absent. Needs transformers; run it from the root of the repository.

For every family {"<section>/<key>": row}; a section is a place in config.json, "" its top. The row is {"default": value},
{"refused": true}, or {} for a key that the reference does not read: leaving it out must change nothing."""
import copy
import json
import pathlib

from transformers import AutoConfig

DATA = pathlib.Path("tests/data")
FAMILIES = ("gemma4", "glm45", "llama", "qwen3", "qwen36")
SECTIONS = ("", "text_config", "vision_config", "rope_scaling", "rope_parameters", "text_config/rope_parameters",
            "vision_config/rope_parameters")

# Not attributes of the configuration class: keyword arguments that it unpacks, and defaults of the
# modeling files where they read the key.
BY_THE_CODE = {
    ("glm45", "/head_dim"): lambda c: c.hidden_size // c.num_attention_heads,  # modeling_glm4_moe.py, Attention
    ("gemma4", "text_config/global_head_dim"): lambda c: 512,  # configuration_gemma4.py, __post_init__
    ("gemma4", "text_config/head_dim"): lambda c: 256,  # the same; the attribute differs by layer afterwards
    ("qwen36", "text_config/rope_parameters/mrope_section"): lambda c: [11, 11, 10],  # modeling_qwen3_5_moe.py
}
# modeling_gemma4.py looks up both for its rotary embedding.
REFUSED_BY_THE_CODE = {("gemma4", f"text_config/rope_parameters/{kind}") for kind in ("full_attention", "sliding_attention")}

# Sarvam's code comes with its checkpoint: the defaults of the authors' configuration_sarvam_moe.py. Its modeling file
# always divides the weights of a token's experts by their sum, and gives the shared experts the width of the others.
SARVAM = {
    "attention_dropout": 0.0, "embedding_dropout": 0.0, "first_k_dense_replace": 1, "head_dim": 256,
    "hidden_act": "silu", "hidden_size": 4096, "initializer_range": 0.006, "intermediate_size": 8192,
    "max_position_embeddings": 4096, "max_window_layers": 19, "moe_intermediate_size": 1024,
    "moe_router_enable_expert_bias": True, "n_group": 1, "num_attention_heads": 16, "num_experts": 128,
    "num_experts_per_tok": 6, "num_hidden_layers": 19, "num_key_value_heads": 4, "num_shared_experts": 1,
    "norm_topk_prob": True, "output_dropout": 0.0, "output_router_logits": False, "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0, "routed_scaling_factor": 2.5, "tie_word_embeddings": False, "topk_group": 1,
    "use_bias": False, "use_cache": True, "use_qk_norm": True, "use_qkv_bias": False, "vocab_size": 262144,
}


def at(document, section):
    for part in filter(None, section.split("/")):
        document = document.get(part) if isinstance(document, dict) else getattr(document, part, None)
    return document


def row_of(family, section, key, config):
    without = copy.deepcopy(config)
    at(without, section).pop(key)
    try:
        loaded = AutoConfig.for_model(without["model_type"]).__class__.from_dict(without)
    except Exception as error:
        print(f"{family} {section}/{key}: {error!r:.150}")
        return {"refused": True}
    if (family, f"{section}/{key}") in REFUSED_BY_THE_CODE:
        return {"refused": True}
    by_the_code = BY_THE_CODE.get((family, f"{section}/{key}"))
    holder = at(loaded, "rope_parameters" if section == "rope_scaling" else section)
    if by_the_code:
        return {"default": by_the_code(holder)}
    if key in ("rope_theta", "partial_rotary_factor") and not isinstance(holder, dict):
        holder = holder.rope_parameters
    if isinstance(holder, dict):
        return {"default": holder[key]} if key in holder else {}
    return {"default": getattr(holder, key)} if hasattr(holder, key) else {}


def main():
    table = {}
    for family in FAMILIES:
        config = json.loads((DATA / family / "config.json").read_text())
        rows = table[family] = {}
        for section in SECTIONS:
            for key in at(config, section) or {}:
                if key in ("architectures", "model_type", "text_config", "vision_config", "audio_config"):
                    continue
                rows[f"{section}/{key}"] = row_of(family, section, key, config)
    sarvam = json.loads((DATA / "sarvam" / "config.json").read_text())
    table["sarvam"] = {f"/{key}": {"default": SARVAM[key]} if key in SARVAM else {}
                       for key in sarvam if key not in ("architectures", "model_type")}
    (DATA / "config_defaults.json").write_text(json.dumps(table, indent=1, default=str) + "\n")


if __name__ == "__main__":
    main()
