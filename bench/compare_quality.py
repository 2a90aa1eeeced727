#!/usr/bin/env python3
"""What each weight type costs, in hearth and in llama.cpp: the same files, quantised by llama.cpp from one in F16, over the
same windows of the same text; KL and perplexity against that F16 file, each engine against itself.

    bench/compare_quality.py -m F16.gguf -f TEXT --hearth build/release/hearth --bin DIR [--types q4_0,q8_0] [--windows 8]

DIR holds llama-quantize and llama-perplexity of a build of llama.cpp.
"""
import argparse
import json
import os
import re
import subprocess
import sys
import tempfile

TYPES = "q8_0,q4_0,q4_1,q5_0,q5_1,q2_k,q3_k_m,q4_k_m,q5_k_m,q6_k,iq4_nl,iq4_xs"


def run(command):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}\nexit {done.returncode}: {done.stdout[-1000:]}")
    return done.stdout


def number(pattern, text):
    found = re.search(pattern, text)
    if not found:
        sys.exit(f"no '{pattern}' in what the engine printed:\n{text[-1000:]}")
    return float(found.group(1))


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("-m", "--model", required=True, help="the model in F16")
    p.add_argument("-f", "--file", required=True, help="a text")
    p.add_argument("--hearth", required=True)
    p.add_argument("--bin", required=True, help="the folder of llama-quantize and llama-perplexity")
    p.add_argument("--types", default=TYPES)
    p.add_argument("--windows", type=int, default=8, help="windows of 512 tokens, of which the second half is scored")
    o = p.parse_args()
    perplexity = [os.path.join(o.bin, "llama-perplexity"), "-f", o.file, "-c", "512", "--chunks", str(o.windows)]
    with tempfile.TemporaryDirectory() as folder:
        base, quantised = os.path.join(folder, "base"), os.path.join(folder, "q.gguf")
        run(perplexity + ["-m", o.model, "--kl-divergence-base", base])
        print("type      KL to F16: hearth  llama.cpp   ratio   perplexity / that of F16: hearth  llama.cpp")
        for name in o.types.split(","):
            run([os.path.join(o.bin, "llama-quantize"), o.model, quantised, name.upper()])
            ours = json.loads(run([o.hearth, "eval", "-m", quantised, "-f", o.file, "--against", o.model, "--windows", "llama",
                                   "--window", "512", "--max-windows", str(o.windows), "--json", "-q"]))
            theirs = run(perplexity + ["-m", quantised, "--kl-divergence-base", base, "--kl-divergence"])
            kl = number(r"Mean\s+KLD:\s+([-0-9.e]+)", theirs)
            ratio = number(r"Mean PPL\(Q\)/PPL\(base\)\s*:\s+([0-9.]+)", theirs)
            our_kl = ours["comparison"]["kl_mean"]
            our_ratio = ours["model"]["perplexity"] / ours["against"]["perplexity"]
            print(f"{name:9} {our_kl:17.5f} {kl:10.5f} {our_kl / kl:7.2f} {our_ratio:33.4f} {ratio:10.4f}", flush=True)


if __name__ == "__main__":
    main()
