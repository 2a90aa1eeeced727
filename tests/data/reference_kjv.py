#!/usr/bin/env python3
"""Computes the reference values of a kjv-relu-7m GGUF: python3 reference_kjv.py MODEL.gguf VALID.txt CASES.json OUT.json

An implementation of its own, for developers: it needs numpy alone, reads the GGUF from its bytes, and shares no code
with hearth, with the gguf package or with make_kjv.py. Weights are dequantised to float32, the forward pass is plain
float32 over the whole sequence without a KV cache. Prompts come from CASES.json (a file of the same form); where
that file has the values of the same model, use --check to compare instead of writing.
"""
import hashlib
import json
import struct
import sys

import numpy as np

EPS = np.float32(1e-5)
WINDOW = 255


def read_gguf(path):
    raw = open(path, "rb").read()
    at = 0

    def take(fmt):
        nonlocal at
        v = struct.unpack_from("<" + fmt, raw, at)
        at += struct.calcsize("<" + fmt)
        return v[0]

    def string():
        nonlocal at
        n = take("Q")
        at += n
        return raw[at - n : at].decode("utf-8", "surrogateescape")

    def value(kind):
        if kind == 8:
            return string()
        if kind == 9:
            sub, n = take("I"), take("Q")
            return [value(sub) for _ in range(n)]
        return take({0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}[kind])

    assert raw[:4] == b"GGUF"
    at = 4
    assert take("I") == 3
    n_tensors, n_keys = take("Q"), take("Q")
    keys = {}
    for _ in range(n_keys):
        name = string()
        keys[name] = value(take("I"))
    infos = []
    for _ in range(n_tensors):
        name = string()
        shape = [take("Q") for _ in range(take("I"))]
        infos.append((name, shape, take("I"), take("Q")))
    align = keys.get("general.alignment", 32)
    base = (at + align - 1) // align * align
    tensors = {name: dequantise(raw, base + offset, shape, kind) for name, shape, kind, offset in infos}
    return raw, keys, tensors


def dequantise(raw, at, shape, kind):
    n = int(np.prod(shape))
    size, count = {0: (4, 1), 1: (2, 1), 2: (18, 32), 3: (20, 32), 6: (22, 32), 8: (34, 32), 14: (210, 256)}[kind]
    b = np.frombuffer(raw, np.uint8, n // count * size, at).reshape(-1, size)

    def half(i):
        return b[:, i : i + 2].copy().view(np.float16).astype(np.float32)

    def nibbles(i):  # the low halves of 16 bytes, then the high ones
        q = b[:, i : i + 16]
        return np.concatenate([q & 15, q >> 4], 1).astype(np.int32)

    if kind == 0:
        x = b.copy().view(np.float32)
    elif kind == 1:
        x = b.copy().view(np.float16).astype(np.float32)
    elif kind == 2:
        x = half(0) * (nibbles(2) - 8).astype(np.float32)
    elif kind == 3:
        x = half(0) * nibbles(4).astype(np.float32) + half(2)
    elif kind == 6:
        fifth = b[:, 2:6].copy().view(np.uint32) >> np.arange(32, dtype=np.uint32) & 1
        x = half(0) * (nibbles(6) + 16 * fifth.astype(np.int32) - 16).astype(np.float32)
    elif kind == 8:
        x = half(0) * b[:, 2:34].copy().view(np.int8).astype(np.float32)
    else:
        q = np.zeros((len(b), 256), np.int32)
        for i in range(256):  # weight i: half h of the block, quarter k of the half, place p
            h, k, p = i // 128, i % 128 // 32, i % 32
            low = b[:, 64 * h + 32 * (k % 2) + p] >> 4 * (k // 2) & 15
            high = b[:, 128 + 32 * h + p] >> 2 * k & 3
            q[:, i] = low | high << 4
        scales = np.repeat(b[:, 192:208].copy().view(np.int8).astype(np.float32), 16, 1)
        x = half(208) * scales * (q - 32).astype(np.float32)
    return x.reshape(shape[::-1]).astype(np.float32)


class Tokenizer:
    """SentencePiece BPE by its definition: merge the adjacent pair whose union has the highest score, leftmost first."""

    def __init__(self, keys):
        self.tokens = keys["tokenizer.ggml.tokens"]
        self.score = keys["tokenizer.ggml.scores"]
        kinds = keys["tokenizer.ggml.token_type"]
        self.id = {t: i for i, t in enumerate(self.tokens) if kinds[i] in (1, 4)}

    def encode(self, text):
        if not text:
            return []
        ids = []
        for word in ("\u2581" + text.replace(" ", "\u2581")).replace("\u2581", "\0\u2581").split("\0"):
            ids += self.encode_word(word)  # no piece of this vocabulary has a blank inside
        return ids

    def encode_word(self, word):
        parts = list(word)
        while True:
            best = None
            for i in range(len(parts) - 1):
                k = self.id.get(parts[i] + parts[i + 1])
                if k is not None and (best is None or self.score[k] > best[0]):
                    best = (self.score[k], i)
            if best is None:
                break
            parts[best[1] : best[1] + 2] = [parts[best[1]] + parts[best[1] + 1]]
        ids = []
        for p in parts:
            ids += [self.id[p]] if p in self.id else [3 + byte for byte in p.encode()]
        return ids

    def decode(self, ids):
        out = b""
        for i in ids:
            out += bytes([i - 3]) if 3 <= i < 259 else self.tokens[i].replace("\u2581", " ").encode()
        return out.decode("utf-8", "replace").lstrip(" ")


class Model:
    def __init__(self, keys, tensors):
        self.k, self.t = keys, tensors
        self.layers = keys["llama.block_count"]
        self.heads = keys["llama.attention.head_count"]
        self.kv_heads = keys["llama.attention.head_count_kv"]
        self.hd = keys["llama.rope.dimension_count"]
        self.density = np.zeros(self.layers)
        self.seen = 0

    def norm(self, x, w):
        return x / np.sqrt(np.mean(x * x, -1, keepdims=True) + EPS) * w

    def rope(self, x):  # [tokens, heads, head dim], pairs (2i, 2i + 1)
        n = x.shape[0]
        angle = np.arange(n)[:, None] * self.k["llama.rope.freq_base"] ** (-np.arange(0, self.hd, 2) / self.hd)
        c, s = np.cos(angle).astype(np.float32)[:, None], np.sin(angle).astype(np.float32)[:, None]
        out = np.empty_like(x)
        out[..., 0::2] = x[..., 0::2] * c - x[..., 1::2] * s
        out[..., 1::2] = x[..., 0::2] * s + x[..., 1::2] * c
        return out

    def logits(self, ids, last_only=False):
        t, n = self.t, len(ids)
        x = t["token_embd.weight"][ids]
        mask = np.triu(np.full((n, n), -np.inf, np.float32), 1)
        for i in range(self.layers):
            w = lambda name: t[f"blk.{i}.{name}.weight"]
            h = self.norm(x, w("attn_norm"))
            q = self.rope((h @ w("attn_q").T).reshape(n, self.heads, self.hd))
            k = self.rope((h @ w("attn_k").T).reshape(n, self.kv_heads, self.hd))
            v = (h @ w("attn_v").T).reshape(n, self.kv_heads, self.hd)
            group = self.heads // self.kv_heads
            k, v = np.repeat(k, group, 1), np.repeat(v, group, 1)
            s = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(np.float32(self.hd)) + mask
            p = np.exp(s - s.max(-1, keepdims=True))
            p /= p.sum(-1, keepdims=True)
            x = x + np.einsum("hqk,khd->qhd", p, v).reshape(n, -1) @ w("attn_output").T
            h = self.norm(x, w("ffn_norm"))
            gate = np.maximum(h @ w("ffn_gate").T, 0)
            self.density[i] += (gate > 0).mean(-1).sum()
            x = x + (gate * (h @ w("ffn_up").T)) @ w("ffn_down").T
        self.seen += n
        x = self.norm(x[-1:] if last_only else x, t["output_norm.weight"])
        return x @ t["output.weight"].T

    def perplexity(self, ids):
        nll = 0.0
        for at in range(0, len(ids), WINDOW):
            window = ids[at : at + WINDOW]
            z = self.logits([1] + window[:-1]).astype(np.float64)
            top = z.max(-1)
            nll += np.sum(top + np.log(np.exp(z - top[:, None]).sum(-1)) - z[np.arange(len(window)), window])
        return {"value": round(float(np.exp(nll / len(ids))), 6), "mean_nll": round(nll / len(ids), 6), "tokens": len(ids)}


def case(model, tokenizer, prompt):
    ids = [1] + tokenizer.encode(prompt)
    z = model.logits(ids, True)[0]
    top = np.argsort(-z, kind="stable")[:20]
    greedy, gap = [], np.inf
    while len(greedy) < 32:
        y = model.logits(ids + greedy, True)[0]
        two = np.sort(y)[-2:]
        gap = min(gap, float(two[1] - two[0]))
        greedy.append(int(y.argmax()))
    return {
        "prompt": prompt,
        "token_ids": ids,
        "top20_ids": [int(i) for i in top],
        "top20_logits": [round(float(z[i]), 6) for i in top],
        "logits_l2": round(float(np.linalg.norm(z.astype(np.float64))), 6),
        "greedy_ids": greedy,
        "greedy_text": tokenizer.decode(greedy),
        "greedy_min_top1_top2_gap": round(gap, 6),
    }


def check(got, want):
    for a, b in zip(got["cases"], want["cases"], strict=True):
        assert a["token_ids"] == b["token_ids"] and a["greedy_ids"] == b["greedy_ids"], a["prompt"]
        assert a["top20_ids"] == b["top20_ids"], a["prompt"]
        print(f"largest logit difference {np.abs(np.subtract(a['top20_logits'], b['top20_logits'])).max():.2e}: {a['prompt']!r}")
    print("perplexity", got["perplexity"]["value"], "expected", want["perplexity"]["value"])
    assert abs(got["perplexity"]["value"] / want["perplexity"]["value"] - 1) < 1e-5


def main(model_path, valid_path, cases_path, out_path):
    raw, keys, tensors = read_gguf(model_path)
    tokenizer, model = Tokenizer(keys), Model(keys, tensors)
    given = json.load(open(cases_path))
    text = open(valid_path, "rb").read()[:20480]
    ids = tokenizer.encode(text.decode())
    perplexity = model.perplexity(ids)
    density = model.density / model.seen
    out = {
        "model": keys["general.name"],
        "gguf_sha256": hashlib.sha256(raw).hexdigest(),
        "computed": "numpy float32 from the dequantised weights, RoPE angles in float64 then rounded, whole sequences without KV cache",
        "special_ids": {"unk": 0, "bos": 1, "eos": 2},
        "cases": [case(model, tokenizer, c["prompt"]) for c in given["cases"]],
        "perplexity": {**perplexity, "bytes": 20480, "how": given["perplexity"]["how"]},
        "sparsity": {
            "text": "the first 20480 bytes of valid.txt, windows as for the perplexity",
            "definition": "neuron active for a token when gate > 0",
            "mean_density": round(float(density.mean()), 5),
            "layers": [{"layer": i, "mean_density": round(float(d), 5)} for i, d in enumerate(density)],
        },
        "tokenizer_cases": [{"text": c["text"], "ids": tokenizer.encode(c["text"])} for c in given["tokenizer_cases"]],
    }
    if [c["ids"] for c in out["tokenizer_cases"]] != [c["ids"] for c in given["tokenizer_cases"]]:
        raise SystemExit("the tokenizer cases differ from the given ones")
    if out_path == "--check":
        check(out, given)
    else:
        json.dump(out, open(out_path, "w"), indent=1, ensure_ascii=False)
        open(out_path, "a").write("\n")


main(*sys.argv[1:])
