#!/usr/bin/env python3
"""Makes models/arch/: a tiny random model of each architecture, as GGUF and as a Hugging Face folder, with the logits
that the transformers package computes for it in float64: python3 make_arch.py OUT_FOLDER [NAME...]

A tool for developers: it needs numpy, gguf, torch and transformers. Only the arithmetic is theirs: the files are
written here, from the weights' names and the documented layouts. Weights are multiples of 1/64 below 2 in magnitude,
so that F32, F16 and BF16 hold them exactly and each file may mix the three.
"""
import copy
import json
import os
import struct
import sys

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as T
from transformers import AutoConfig, AutoModelForCausalLM

D, FF, VOCAB, LAYERS = 32, 40, 64, 2
TOKENS = 20
BASE = {
    "hidden_size": D, "intermediate_size": FF, "vocab_size": VOCAB, "num_hidden_layers": LAYERS,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "bos_token_id": 0,
    "eos_token_id": 1, "pad_token_id": None, "tie_word_embeddings": False,
}
GATED = {**BASE, "hidden_act": "silu", "rms_norm_eps": 1e-6, "rope_theta": 10000.0}
GEMMA = {**BASE, "hidden_activation": "gelu_pytorch_tanh", "rms_norm_eps": 1e-6, "head_dim": 16,
         "rope_theta": 10000.0, "tie_word_embeddings": True}
PHI_SHORT, PHI_LONG = [1.0, 1.125, 1.5], [1.25, 2.5, 4.0]

# config.json as such models are published; "new": as transformers 5 writes it.
MODELS = {
    "llama": {**GATED, "model_type": "llama", "tie_word_embeddings": True, "rope_scaling": {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32}},
    "mistral": {**GATED, "model_type": "mistral", "sliding_window": 6, "head_dim": 10},
    "qwen2": {**GATED, "model_type": "qwen2", "use_sliding_window": False, "sliding_window": 4, "max_window_layers": 1,
              "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}},
    "qwen3": {**GATED, "model_type": "qwen3", "head_dim": 16, "rope_theta": 1e6},
    "phi3": {**GATED, "model_type": "phi3", "max_position_embeddings": 48, "original_max_position_embeddings": 12,
             "sliding_window": 9, "partial_rotary_factor": 0.75,
             "rope_scaling": {"type": "longrope", "short_factor": PHI_SHORT, "long_factor": PHI_LONG}},
    "starcoder2": {**BASE, "model_type": "starcoder2", "hidden_act": "gelu_pytorch_tanh", "norm_epsilon": 1e-5,
                   "use_bias": True, "rope_theta": 100000.0, "sliding_window": 8, "tie_word_embeddings": True},
    "gemma": {**GEMMA, "model_type": "gemma", "num_key_value_heads": 1},
    "gemma2": {**GEMMA, "model_type": "gemma2", "sliding_window": 5, "query_pre_attn_scalar": 16,
               "attn_logit_softcapping": 3.0, "final_logit_softcapping": 4.0},
    "gemma3": {**GEMMA, "model_type": "gemma3_text", "num_hidden_layers": 3, "sliding_window": 5,
               "query_pre_attn_scalar": 16, "rope_theta": 1e6, "rope_local_base_freq": 10000.0,
               "rope_scaling": {"rope_type": "linear", "factor": 8.0}, "sliding_window_pattern": 3},
}
NEW_CONFIG = {"qwen3", "gemma3"}
SHARDED, ODD = {"qwen2", "gemma2"}, {"starcoder2", "phi3"}


def weights(model, name):
    """Random weights into the model; returns them by name."""
    rng = np.random.default_rng(sum(name.encode()))
    out = {}
    for key, p in model.named_parameters():
        if "norm" in key:
            middle = 0.0 if name.startswith("gemma") or key.endswith("bias") else 1.0
            x = middle + np.rint(rng.normal(0, 12, p.shape)) / 64
        elif key.endswith("bias"):
            x = np.rint(rng.normal(0, 12, p.shape)) / 64
        else:
            scale = 1.0 if "embed" in key else 1.4 / np.sqrt(p.shape[-1])
            x = np.rint(rng.normal(0, 64 * scale, p.shape)) / 64
        x = np.clip(x, -127 / 64, 127 / 64)
        with torch.no_grad():
            p.copy_(torch.from_numpy(x))
        out[key] = x.astype(np.float32)
    return out


def logits_of(model, ids):
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].numpy()


def reference(model, name):
    lengths = [10, TOKENS] if name == "phi3" else [TOKENS]  # within and beyond the original context
    for seed in range(100):
        ids = [int(i) for i in np.random.default_rng(seed).integers(0, VOCAB, TOKENS)]
        z_of = {n: logits_of(model, ids[:n]) for n in lengths}
        two = np.concatenate([np.sort(z, -1)[:, -2:] for z in z_of.values()])
        if (two[:, 1] - two[:, 0]).min() > 3e-3:  # the highest is beyond doubt
            break
    else:
        raise SystemExit(f"{name}: no sequence of tokens with clear winners")
    cases = []
    for n, z in z_of.items():
        cases.append({"context": n, "tokens": ids[:n], "logits": [[float(f"{v:.8g}") for v in row] for row in z]})
    return cases


# ---- tokenizers: letters and one merge, enough to open the files ----

LETTERS = [chr(33 + i) for i in range(40)]
TOKEN_LIST = ["<s>", "</s>"] + LETTERS + ["!!"]


def tokenizer_json():
    return {
        "version": "1.0", "truncation": None, "padding": None, "normalizer": None, "post_processor": None,
        "added_tokens": [{"id": i, "content": t, "single_word": False, "lstrip": False, "rstrip": False,
                          "normalized": False, "special": True} for i, t in enumerate(TOKEN_LIST[:2])],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "decoder": {"type": "ByteLevel"},
        "model": {"type": "BPE", "vocab": {t: i for i, t in enumerate(TOKEN_LIST)}, "merges": ["! !"]},
    }


# ---- safetensors ----

TYPES = {"F32": np.float32, "F16": np.float16}


def encode(x, dtype):
    if dtype == "BF16":
        bits = x.astype(np.float32).view(np.uint32)
        assert not (bits & 0xFFFF).any()
        return (bits >> 16).astype(np.uint16).tobytes()
    y = x.astype(TYPES[dtype])
    assert (y.astype(np.float32) == x).all()
    return y.tobytes()


def write_safetensors(path, tensors, odd):
    """odd: nothing is padded, so that data begins at any byte."""
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for i, (name, x) in enumerate(tensors):
        dtype = ["BF16", "F16", "F32"][i % 3]
        raw = encode(x, dtype)
        header[name] = {"dtype": dtype, "shape": list(x.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * ((-len(text)) % 8 if not odd else (3 - len(text)) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + data)


def write_folder(folder, name, config, tensors):
    tied = config["tie_word_embeddings"]
    tensors = [(k, v) for k, v in tensors.items() if not (tied and k == "lm_head.weight")]
    if name in SHARDED:
        half = len(tensors) // 2
        parts = {"model-00001-of-00002.safetensors": tensors[:half], "model-00002-of-00002.safetensors": tensors[half:]}
        index = {"metadata": {"total_size": 0}, "weight_map": {k: f for f, part in parts.items() for k, _ in part}}
        with open(f"{folder}/model.safetensors.index.json", "w") as f:
            json.dump(index, f, indent=1)
    else:
        parts = {"model.safetensors": tensors}
    for file, part in parts.items():
        write_safetensors(f"{folder}/{file}", part, name in ODD)
    with open(f"{folder}/tokenizer.json", "w") as f:
        json.dump(tokenizer_json(), f, separators=(",", ":"))


# ---- GGUF ----

NAMES = {
    "model.embed_tokens": "token_embd", "lm_head": "output", "model.norm": "output_norm",
    "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.qkv_proj": "attn_qkv", "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm", "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.gate_up_proj": "ffn_up", "mlp.c_fc": "ffn_up",
    "mlp.down_proj": "ffn_down", "mlp.c_proj": "ffn_down",
}
NAMES_POST = {"post_attention_layernorm": "post_attention_norm", "pre_feedforward_layernorm": "ffn_norm",
              "post_feedforward_layernorm": "post_ffw_norm"}


def gguf_name(key, post):
    base, kind = key.rsplit(".", 1)
    if base.startswith("model.layers."):
        _, _, layer, what = base.split(".", 3)
        return f"blk.{layer}.{(NAMES_POST.get(what) if post else None) or NAMES[what]}.{kind}"
    return f"{NAMES[base]}.{kind}"


def permute(x, heads):
    """Rows of a head from halves (i, i + e/2) to neighbours (2i, 2i + 1)."""
    e = x.shape[0] // heads
    return x.reshape(heads, 2, e // 2, *x.shape[1:]).swapaxes(1, 2).reshape(x.shape)


def llama3_divisors(c, e):
    s = c["rope_scaling"]
    freq = c["rope_theta"] ** (-np.arange(0, e, 2) / e)
    length = 2 * np.pi / freq
    low, high = s["original_max_position_embeddings"] / s["low_freq_factor"], s["original_max_position_embeddings"] / s["high_freq_factor"]
    smooth = (s["original_max_position_embeddings"] / length - s["low_freq_factor"]) / (s["high_freq_factor"] - s["low_freq_factor"])
    mid = 1 / ((1 - smooth) / s["factor"] + smooth)
    return np.where(length > low, s["factor"], np.where(length < high, 1.0, mid)).astype(np.float32)


def write_gguf(path, name, c, tensors):
    w = gguf.GGUFWriter(path, name)
    heads, kv = c["num_attention_heads"], c["num_key_value_heads"]
    e = c.get("head_dim") or D // heads
    w.add_name(f"tiny {name}")
    w.add_block_count(c["num_hidden_layers"])
    w.add_context_length(c["max_position_embeddings"])
    w.add_embedding_length(D)
    w.add_feed_forward_length(FF)
    w.add_head_count(heads)
    w.add_head_count_kv(kv)
    if e != D // heads:
        w.add_key_length(e)
        w.add_value_length(e)
    if "norm_epsilon" in c:
        w.add_layer_norm_eps(c["norm_epsilon"])
    else:
        w.add_layer_norm_rms_eps(c["rms_norm_eps"])
    w.add_rope_freq_base(c["rope_theta"])
    rope = int(e * c.get("partial_rotary_factor", 1))
    w.add_rope_dimension_count(rope)
    if c.get("sliding_window") and c.get("use_sliding_window", True):
        w.add_sliding_window(c["sliding_window"])
    if name == "gemma2":
        w.add_attn_logit_softcapping(c["attn_logit_softcapping"])
        w.add_final_logit_softcapping(c["final_logit_softcapping"])
    if name == "gemma3":
        w.add_uint32("gemma3.attention.sliding_window_pattern", c["sliding_window_pattern"])
        w.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        w.add_rope_scaling_factor(c["rope_scaling"]["factor"])
    if name == "qwen2":
        w.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        w.add_rope_scaling_factor(c["rope_scaling"]["factor"])
        w.add_rope_scaling_orig_ctx_len(c["rope_scaling"]["original_max_position_embeddings"])
    if name == "phi3":
        old = c["original_max_position_embeddings"]
        w.add_rope_scaling_orig_ctx_len(old)
        w.add_rope_scaling_attn_factors(float(np.sqrt(1 + np.log(c["max_position_embeddings"] / old) / np.log(old))))
        w.add_tensor("rope_factors_long.weight", np.array(PHI_LONG, np.float32))
        w.add_tensor("rope_factors_short.weight", np.array(PHI_SHORT, np.float32))
    if name == "llama":
        w.add_tensor("rope_freqs.weight", llama3_divisors(c, e))
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("gpt-2")
    w.add_token_list(TOKEN_LIST)
    w.add_token_types([3, 3] + [1] * (len(TOKEN_LIST) - 2))
    w.add_token_merges(["! !"])
    w.add_bos_token_id(0)
    w.add_eos_token_id(1)
    for key, x in tensors.items():
        if c["tie_word_embeddings"] and key == "lm_head.weight":
            continue
        if name in ("llama", "mistral") and ("q_proj" in key or "k_proj" in key):
            x = permute(x, heads if "q_proj" in key else kv)
        if name.startswith("gemma") and "norm" in key:
            x = x + 1
        w.add_tensor(gguf_name(key, name in ("gemma2", "gemma3")), x.astype(np.float16) if x.ndim > 1 else x)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def main(out, *wanted):
    for name, c in MODELS.items():
        if wanted and name not in wanted:
            continue
        folder = f"{out}/{name}"
        os.makedirs(folder, exist_ok=True)
        config = AutoConfig.for_model(c["model_type"]).from_dict(copy.deepcopy(c))
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=torch.float64).eval()
        tensors = weights(model, name)
        with open(f"{folder}/config.json", "w") as f:
            json.dump(config.to_diff_dict() if name in NEW_CONFIG else {"architectures": [type(model).__name__], **c}, f, indent=1)
        with open(f"{folder}/reference.json", "w") as f:
            json.dump({"cases": reference(model, name)}, f, separators=(",", ":"))
        write_folder(folder, name, c, tensors)
        write_gguf(f"{folder}/{name}.gguf", name, c, tensors)
        print(name, sum(x.size for x in tensors.values()))


main(*sys.argv[1:])
