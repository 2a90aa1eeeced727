#!/usr/bin/env python3
"""Compare hearth with llama.cpp, token by token, on the same GGUF file and the same text (a development tool).

    pip install llama-cpp-python
    bench/compare_llama_cpp.py -m MODEL.gguf -f TEXT [--score build/hearth-score] [--act q8|f32] [--noise]
    bench/compare_llama_cpp.py -m MODEL.gguf -f TEXT --act f32 --exact MODEL-F32.gguf

Both engines are teacher-forced: each is given the true tokens and asked for the next one. Printed: the share of tokens
whose likeliest successor is the same (top-1 agreement), the mean |difference| of the log-probability of the true
successor, and both perplexities.

Both engines round activations to 8 bits where weights are quantised, and roundings flip at the least disturbance, so
two right programs differ. --noise measures by how much: llama.cpp against itself, with and without flash attention.
--exact takes rounding out: llama.cpp computes from the same weights as F32 (bench/dequantize_gguf.py), hearth with F32
activations.

Exit code 0 if agreement is at least 98 % and the mean difference at most 0.02, or, with --noise, if disagreement and
difference are at most twice those of llama.cpp with itself.

A window is BOS (if the model wants one) and then --window tokens. With --class decode the second half of each window
is computed one token at a time by hearth; llama.cpp gets it as a prompt either way.
"""
import argparse
import os
import subprocess
import sys
import tempfile

import llama_cpp
import numpy as np


def options():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("-m", "--model", required=True)
    p.add_argument("-f", "--file", required=True, help="text")
    p.add_argument("--score", default=os.path.join(os.path.dirname(__file__), "..", "build", "hearth-score"))
    p.add_argument("--act", default="q8", choices=["q8", "f32"])
    p.add_argument("--class", dest="class_", default="prompt", choices=["prompt", "decode"])
    p.add_argument("--window", type=int, default=511)
    p.add_argument("--tokens", type=int, default=2560, help="tokens of the text to use")
    p.add_argument("--noise", action="store_true", help="also compare llama.cpp with itself")
    p.add_argument("--exact", metavar="GGUF", help="the same weights in F32, for llama.cpp")
    p.add_argument("--threads", type=int, default=os.cpu_count())
    return p.parse_args()


def by_llama_cpp(llama, windows):
    """Rows of (likeliest next id, log-probability of the true next id)."""
    rows = []
    for w in windows:
        llama.reset()
        llama.eval(w)
        logits = np.asarray(llama.scores[: len(w) - 1], dtype=np.float64)
        top = logits.max(axis=1, keepdims=True)
        log_sum = (top + np.log(np.exp(logits - top).sum(axis=1, keepdims=True)))[:, 0]
        true = logits[np.arange(len(w) - 1), w[1:]] - log_sum
        rows += list(zip(logits.argmax(axis=1), true))
    return np.array(rows)


def by_hearth(o, windows):
    with tempfile.NamedTemporaryFile("w", suffix=".ids") as f:
        f.writelines(" ".join(map(str, w)) + "\n" for w in windows)
        f.flush()
        out = subprocess.run([o.score, o.model, f.name, o.act, o.class_], check=True, stdout=subprocess.PIPE, text=True)
    return np.array([[float(v) for v in line.split()] for line in out.stdout.splitlines()])


def difference(a, b):
    """Share of tokens with another likeliest successor, and |differences| of log-probabilities."""
    return (a[:, 0] != b[:, 0]).mean(), np.abs(a[:, 1] - b[:, 1])


def show(name, disagree, apart):
    print(f"{name:22} top-1 agreement {100 * (1 - disagree):6.2f} %   mean |logprob difference| {apart.mean():.5f}   "
          f"(95 %: {np.quantile(apart, 0.95):.4f}, most: {apart.max():.4f})")


def open_llama(o, flash=False):
    return llama_cpp.Llama(o.exact or o.model, n_ctx=o.window + 1, n_batch=o.window + 1, logits_all=True, verbose=False,
                           n_threads=o.threads, n_threads_batch=o.threads, flash_attn=flash)


def main():
    o = options()
    llama = open_llama(o)
    with open(o.file, "rb") as f:
        ids = llama.tokenize(f.read(), add_bos=False, special=False)[: o.tokens]
    bos = [llama.token_bos()] if llama.metadata.get("tokenizer.ggml.add_bos_token", "true") == "true" else []
    windows = [bos + ids[i : i + o.window] for i in range(0, len(ids), o.window)]
    windows = [w for w in windows if len(w) > 1]

    theirs, ours = by_llama_cpp(llama, windows), by_hearth(o, windows)
    if theirs.shape != ours.shape:
        sys.exit(f"{len(theirs)} tokens by llama.cpp, {len(ours)} by hearth")
    print(f"{os.path.basename(o.model)}: {len(ours)} tokens, activations {o.act}, class {o.class_}"
          f"{', llama.cpp in F32' if o.exact else ''}")
    disagree, apart = difference(theirs, ours)
    show("hearth, llama.cpp", disagree, apart)
    good = disagree <= 0.02 and apart.mean() <= 0.02
    if o.noise:
        floor, floor_apart = difference(theirs, by_llama_cpp(open_llama(o, flash=True), windows))
        show("llama.cpp, itself", floor, floor_apart)
        good = good or (disagree <= 2 * floor and apart.mean() <= 2 * floor_apart.mean())
    print(f"perplexity             llama.cpp {np.exp(-theirs[:, 1].mean()):.4f}, hearth {np.exp(-ours[:, 1].mean()):.4f}")
    sys.exit(not good)


if __name__ == "__main__":
    main()
