#!/usr/bin/env python3
"""Compare hearth with llama.cpp, token by token, on the same GGUF file and the same text (a development tool).

    pip install llama-cpp-python
    bench/compare_llama_cpp.py -m MODEL.gguf -f TEXT [--score build/hearth-score] [--act q8|f32]

Both engines are teacher-forced: each is given the true tokens and asked for the next one. Printed: the share of tokens
whose likeliest successor is the same (top-1 agreement), the mean |difference| of the log-probability of the true
successor, and both perplexities. Exit code 1 if agreement is below 98 % or the mean difference above 0.02.

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


def main():
    o = options()
    llama = llama_cpp.Llama(o.model, n_ctx=o.window + 1, n_batch=o.window + 1, logits_all=True, verbose=False,
                            n_threads=o.threads, n_threads_batch=o.threads)
    with open(o.file, "rb") as f:
        ids = llama.tokenize(f.read(), add_bos=False, special=False)[: o.tokens]
    bos = [llama.token_bos()] if llama.metadata.get("tokenizer.ggml.add_bos_token", "true") == "true" else []
    windows = [bos + ids[i : i + o.window] for i in range(0, len(ids), o.window)]
    windows = [w for w in windows if len(w) > 1]

    theirs, ours = by_llama_cpp(llama, windows), by_hearth(o, windows)
    if theirs.shape != ours.shape:
        sys.exit(f"{len(theirs)} tokens by llama.cpp, {len(ours)} by hearth")
    agree = (theirs[:, 0] == ours[:, 0]).mean()
    difference = np.abs(theirs[:, 1] - ours[:, 1])
    print(f"{os.path.basename(o.model)}: {len(ours)} tokens, activations {o.act}, class {o.class_}")
    print(f"top-1 agreement            {100 * agree:.2f} %")
    print(f"mean |logprob difference|  {difference.mean():.5f}  (95 %: {np.quantile(difference, 0.95):.4f}, "
          f"most: {difference.max():.4f})")
    print(f"perplexity                 llama.cpp {np.exp(-theirs[:, 1].mean()):.4f}, hearth "
          f"{np.exp(-ours[:, 1].mean()):.4f}")
    sys.exit(not (agree >= 0.98 and difference.mean() <= 0.02))


if __name__ == "__main__":
    main()
