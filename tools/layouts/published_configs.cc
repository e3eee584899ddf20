// The settings of four published models, from their config.json.
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/nearest.h"
#include "layouts/layout.h"

namespace quern::layouts {
namespace {

constexpr const char* kQwen36 = R"({
  "architectures": ["Qwen3_5MoeForConditionalGeneration"],
  "image_token_id": 248056, "model_type": "qwen3_5_moe",
  "text_config": {
    "attention_bias": false, "attention_dropout": 0.0, "attn_output_gate": true,
    "bos_token_id": 248044, "dtype": "bfloat16", "eos_token_id": 248044,
    "full_attention_interval": 4, "head_dim": 256, "hidden_act": "silu", "hidden_size": 2048,
    "initializer_range": 0.02, "layer_types": [], "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 128, "linear_num_key_heads": 16, "linear_num_value_heads": 32,
    "linear_value_head_dim": 128, "mamba_ssm_dtype": "float32", "max_position_embeddings": 262144,
    "mlp_only_layers": [], "model_type": "qwen3_5_moe_text", "moe_intermediate_size": 512,
    "mtp_num_hidden_layers": 1, "mtp_use_dedicated_embeddings": false, "num_attention_heads": 16,
    "num_experts": 256, "num_experts_per_tok": 8, "num_hidden_layers": 40,
    "num_key_value_heads": 2, "output_router_logits": false, "partial_rotary_factor": 0.25,
    "rms_norm_eps": 1e-06,
    "rope_parameters": {"mrope_interleaved": true, "mrope_section": [11, 11, 10],
      "partial_rotary_factor": 0.25, "rope_theta": 10000000, "rope_type": "default"},
    "router_aux_loss_coef": 0.001, "shared_expert_intermediate_size": 512,
    "tie_word_embeddings": false, "use_cache": true, "vocab_size": 248320
  },
  "tie_word_embeddings": false, "video_token_id": 248057,
  "vision_config": {
    "deepstack_visual_indexes": [], "depth": 27, "hidden_act": "gelu_pytorch_tanh",
    "hidden_size": 1152, "in_channels": 3, "initializer_range": 0.02, "intermediate_size": 4304,
    "model_type": "qwen3_5_moe", "num_heads": 16, "num_position_embeddings": 2304,
    "out_hidden_size": 2048, "patch_size": 16, "spatial_merge_size": 2, "temporal_patch_size": 2
  },
  "vision_end_token_id": 248054, "vision_start_token_id": 248053
})";

constexpr const char* kGlm45 = R"({
  "architectures": ["Glm4MoeForCausalLM"], "attention_bias": true, "attention_dropout": 0.0,
  "eos_token_id": [151329, 151336, 151338], "first_k_dense_replace": 1, "head_dim": 128,
  "hidden_act": "silu", "hidden_size": 4096, "initializer_range": 0.02,
  "intermediate_size": 10944, "max_position_embeddings": 131072, "model_type": "glm4_moe",
  "moe_intermediate_size": 1408, "n_group": 1, "n_routed_experts": 128, "n_shared_experts": 1,
  "norm_topk_prob": true, "num_attention_heads": 96, "num_experts_per_tok": 8,
  "num_hidden_layers": 46, "num_key_value_heads": 8, "num_nextn_predict_layers": 1,
  "pad_token_id": 151329, "partial_rotary_factor": 0.5, "rms_norm_eps": 1e-05,
  "rope_scaling": null, "rope_theta": 1000000, "routed_scaling_factor": 1.0,
  "tie_word_embeddings": false, "topk_group": 1, "torch_dtype": "bfloat16", "use_cache": true,
  "use_qk_norm": false, "vocab_size": 151552
})";

constexpr const char* kGemma4 = R"({
  "architectures": ["Gemma4ForConditionalGeneration"],
  "audio_config": {
    "attention_chunk_size": 12, "attention_context_left": 13, "attention_context_right": 0,
    "attention_invalid_logits_value": -1000000000.0, "attention_logit_cap": 50.0,
    "conv_kernel_size": 5, "dtype": "bfloat16", "gradient_clipping": 10000000000.0,
    "hidden_act": "silu", "hidden_size": 1024, "initializer_range": 0.02,
    "model_type": "gemma4_audio", "num_attention_heads": 8, "num_hidden_layers": 12,
    "output_proj_dims": 1536, "residual_weight": 0.5, "rms_norm_eps": 1e-06,
    "subsampling_conv_channels": [128, 32], "use_clipped_linears": true
  },
  "audio_token_id": 258881, "boa_token_id": 256000, "boi_token_id": 255999, "dtype": "bfloat16",
  "eoa_token_id": 258883, "eoa_token_index": 258883, "eoi_token_id": 258882,
  "eos_token_id": [1, 106], "image_token_id": 258880, "initializer_range": 0.02,
  "model_type": "gemma4",
  "text_config": {
    "attention_bias": false, "attention_dropout": 0.0, "attention_k_eq_v": false,
    "bos_token_id": 2, "dtype": "bfloat16", "enable_moe_block": false, "eos_token_id": 1,
    "expert_intermediate_size": null, "final_logit_softcapping": 30.0, "global_head_dim": 512,
    "head_dim": 256, "hidden_activation": "gelu_pytorch_tanh", "hidden_size": 2560,
    "hidden_size_per_layer_input": 256, "initializer_range": 0.02, "intermediate_size": 10240,
    "layer_types": [], "max_position_embeddings": 131072, "model_type": "gemma4_text",
    "num_attention_heads": 8, "num_experts": null, "num_global_key_value_heads": null,
    "num_hidden_layers": 42, "num_key_value_heads": 2, "num_kv_shared_layers": 18,
    "pad_token_id": 0, "rms_norm_eps": 1e-06,
    "rope_parameters": {
      "full_attention": {"partial_rotary_factor": 0.25, "rope_theta": 1000000.0,
        "rope_type": "proportional"},
      "sliding_attention": {"rope_theta": 10000.0, "rope_type": "default"}},
    "sliding_window": 512, "tie_word_embeddings": true, "top_k_experts": null,
    "use_bidirectional_attention": null, "use_cache": true, "use_double_wide_mlp": false,
    "vocab_size": 262144, "vocab_size_per_layer_input": 262144
  },
  "tie_word_embeddings": true, "video_token_id": 258884,
  "vision_config": {
    "attention_bias": false, "attention_dropout": 0.0, "default_output_length": 280,
    "dtype": "bfloat16", "global_head_dim": 64, "head_dim": 64,
    "hidden_activation": "gelu_pytorch_tanh", "hidden_size": 768, "initializer_range": 0.02,
    "intermediate_size": 3072, "max_position_embeddings": 131072, "model_type": "gemma4_vision",
    "num_attention_heads": 12, "num_hidden_layers": 16, "num_key_value_heads": 12,
    "patch_size": 16, "pooling_kernel_size": 3, "position_embedding_size": 10240,
    "rms_norm_eps": 1e-06, "rope_parameters": {"rope_theta": 100.0, "rope_type": "default"},
    "standardize": false, "use_clipped_linears": true
  },
  "vision_soft_tokens_per_image": 280
})";

constexpr const char* kSarvam = R"({
  "architectures": ["SarvamMoEForCausalLM"], "attention_dropout": 0.0, "embedding_dropout": 0.0,
  "eos_token_id": 1, "first_k_dense_replace": 1, "head_dim": 64, "hidden_act": "silu",
  "hidden_size": 4096, "initializer_range": 0.006, "intermediate_size": 8192,
  "max_position_embeddings": 131072, "max_window_layers": 19, "model_type": "sarvam_moe",
  "moe_intermediate_size": 1024, "moe_router_enable_expert_bias": true,
  "moe_shared_expert_intermediate_size": 1024, "n_group": 1, "norm_head": false,
  "norm_topk_prob": true, "num_attention_heads": 64, "num_experts": 128,
  "num_experts_per_tok": 6, "num_hidden_layers": 19, "num_key_value_heads": 4,
  "num_shared_experts": 1, "output_dropout": 0.0, "output_router_logits": false,
  "pad_token_id": 0, "rms_norm_eps": 1e-06, "rope_scaling": null, "rope_theta": 8000000.0,
  "routed_scaling_factor": 2.5, "router_dtype": "fp32", "score_function": "sigmoid",
  "tie_word_embeddings": false, "topk_group": 1, "torch_dtype": "float32", "use_bias": false,
  "use_cache": true, "use_qk_norm": true, "use_qkv_bias": false, "use_rmsnorm": true,
  "vocab_size": 262144
})";

constexpr const char* kQwen36Processor = R"({
  "size": {"longest_edge": 16777216, "shortest_edge": 65536}, "patch_size": 16,
  "temporal_patch_size": 2, "merge_size": 2, "image_mean": [0.5, 0.5, 0.5],
  "image_std": [0.5, 0.5, 0.5], "processor_class": "Qwen3VLProcessor",
  "image_processor_type": "Qwen2VLImageProcessorFast"
})";

constexpr const char* kGemma4Processor = R"({
  "image_processor": {
    "do_convert_rgb": true, "do_normalize": false, "do_rescale": true, "do_resize": true,
    "image_mean": [0.0, 0.0, 0.0], "image_processor_type": "Gemma4ImageProcessor",
    "image_seq_length": 280, "image_std": [1.0, 1.0, 1.0], "max_soft_tokens": 280,
    "patch_size": 16, "pooling_kernel_size": 3, "resample": 3,
    "rescale_factor": 0.00392156862745098
  },
  "image_seq_length": 280, "processor_class": "Gemma4Processor"
})";

// Every `interval`-th block and the last one have full attention.
JsonValue layer_types(int blocks, int interval, const char* other) {
  JsonValue types = JsonValue::array();
  for (int i = 0; i < blocks; ++i)
    types.push_back((i + 1) % interval == 0 || i + 1 == blocks ? "full_attention" : other);
  return types;
}

// Blocks that share keys need an earlier block of each kind.
void shorten_gemma4(JsonValue& text, int blocks) {
  const int shared = blocks < 4 ? 0 : blocks * 18 / 42;
  text["num_kv_shared_layers"] = shared;
  text["layer_types"] = layer_types(blocks, blocks < 12 ? 2 : 6, "sliding_attention");
}

}  // namespace

std::vector<std::string> families() { return {"gemma4", "glm4.5", "qwen3.6", "sarvam"}; }

JsonValue published_config(const std::string& family, int blocks) {
  const char* text = family == "qwen3.6"  ? kQwen36
                     : family == "glm4.5" ? kGlm45
                     : family == "gemma4" ? kGemma4
                     : family == "sarvam" ? kSarvam
                                          : nullptr;
  if (!text) fail(Exit::usage, "there is no family {}{}", family, did_you_mean(family, families()));
  JsonValue config = parse_json(text, family);
  JsonValue& model = config.contains("text_config") ? config["text_config"] : config;
  if (blocks > 0) model["num_hidden_layers"] = blocks;
  const int layers = model["num_hidden_layers"];
  if (family == "qwen3.6") model["layer_types"] = layer_types(layers, 4, "linear_attention");
  if (family == "gemma4") shorten_gemma4(model, layers);
  return config;
}

ProcessorFile published_processor(const std::string& family) {
  if (family == "qwen3.6")
    return {"preprocessor_config.json", parse_json(kQwen36Processor, family)};
  if (family == "gemma4") return {"processor_config.json", parse_json(kGemma4Processor, family)};
  return {};
}

}  // namespace quern::layouts
