#!/usr/bin/env python3
"""Compare `hearth batch` with llama.cpp's server on the same requests, with as many slots, in turns.

    bench/compare_batch.py -m MODEL.gguf --hearth build/release/hearth --server /path/llama-server -f TEXT
        [--requests 256] [--slots 16] [--rounds 2] [--json FILE]

The requests have prompts of 30 to 600 bytes cut from TEXT at random and a skewed mix of answer lengths (many short, few
long; greedy, no early end). All are handed over at once: to hearth as a job file, to the server by as many connections.
Counted are all tokens, prompts and answers, over the time from the first request to the last answer; loading is not counted.
Prompts have nothing in common, so that reuse does not decide; the server is told not to keep the prompts of slots that are
used again. Greedy answers may repeat themselves, which hearth makes use of and the server by itself does not: how many tokens
were guessed right is said, and --speculate never leaves it out.
"""
import argparse
import concurrent.futures
import json
import os
import random
import statistics
import subprocess
import tempfile
import time
import urllib.request

PORT = 18473


def options():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("-m", "--model", required=True)
    p.add_argument("-f", "--file", required=True, help="text to cut prompts from")
    p.add_argument("--hearth", required=True)
    p.add_argument("--server", required=True, help="llama.cpp's llama-server")
    p.add_argument("--requests", type=int, default=256)
    p.add_argument("--slots", type=int, default=16)
    p.add_argument("--context", type=int, default=768, help="tokens of a slot")
    p.add_argument("--threads", type=int, default=os.cpu_count())
    p.add_argument("--rounds", type=int, default=1)
    p.add_argument("--speculate", default="auto", choices=["auto", "never"])
    p.add_argument("--json", metavar="FILE")
    return p.parse_args()


def make_requests(o):
    rng = random.Random(7)
    with open(o.file, encoding="utf-8", errors="replace") as f:
        text = f.read()
    requests = []
    for i in range(o.requests):
        size, at = rng.randint(30, 600), rng.randrange(len(text) - 600)
        answer = min(300, 4 + int(rng.expovariate(1 / 40)))
        requests.append({"custom_id": f"r{i}", "prompt": text[at : at + size], "max_tokens": answer})
    return requests


def run_hearth(o, requests):
    with tempfile.TemporaryDirectory() as folder:
        job, out, summary = (os.path.join(folder, n) for n in ("job.jsonl", "out.jsonl", "summary.json"))
        with open(job, "w", encoding="utf-8") as f:
            for r in requests:
                body = {"prompt": r["prompt"], "max_tokens": r["max_tokens"], "temperature": 0}
                f.write(json.dumps({"custom_id": r["custom_id"], "method": "POST", "url": "/v1/completions", "body": body}) + "\n")
        subprocess.run([o.hearth, "batch", "-m", o.model, "-i", job, "-o", out, "-np", str(o.slots), "-c", str(o.context), "-t",
                        str(o.threads), "--any-model", "--ignore-eos", "--speculate", o.speculate, "--summary", summary, "-q"],
                       check=True)
        with open(out, encoding="utf-8") as f:
            lines = [json.loads(line) for line in f]
        with open(summary, encoding="utf-8") as f:
            s = json.load(f)
    usage = [line["response"]["body"]["usage"] for line in lines]
    print(f"hearth: {s['accepted_tokens']:.0f} tokens were guessed right, {s['useful_token_share']:.1%} of the work was of use")
    return sum(u["prompt_tokens"] for u in usage), sum(u["completion_tokens"] for u in usage), s["seconds"], s


def ask(r):
    body = {"prompt": r["prompt"], "n_predict": r["max_tokens"], "temperature": 0, "ignore_eos": True, "cache_prompt": False}
    request = urllib.request.Request(f"http://127.0.0.1:{PORT}/completion", json.dumps(body).encode(),
                                     {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=3600) as answer:
        a = json.load(answer)
    return a["tokens_evaluated"], a["tokens_predicted"]


def run_server(o, requests):
    # It would copy a slot's KV aside for each prompt that replaces another. Older ones do not know that, nor the variable.
    env = {**os.environ, "LLAMA_ARG_CACHE_RAM": "0"}
    server = subprocess.Popen([o.server, "-m", o.model, "-np", str(o.slots), "-c", str(o.slots * o.context), "-t", str(o.threads),
                               "--port", str(PORT), "--threads-http", str(len(requests) + 2)],
                              env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(600):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/health") as h:
                    if json.load(h).get("status") == "ok":
                        break
            except OSError:
                pass
            if server.poll() is not None:
                raise SystemExit(f"{o.server} ended by itself with {server.returncode}")
            time.sleep(0.2)
        else:
            raise SystemExit(f"{o.server} does not answer")
        ask({"prompt": "warm up", "max_tokens": 4})
        started = time.monotonic()
        with concurrent.futures.ThreadPoolExecutor(len(requests)) as pool:
            counts = list(pool.map(ask, requests))
        seconds = time.monotonic() - started
    finally:
        server.terminate()
        server.wait()
    return sum(c[0] for c in counts), sum(c[1] for c in counts), seconds, None


def main():
    o = options()
    requests = make_requests(o)
    rounds = []
    sides = {"hearth": run_hearth, "server": run_server}
    for i in range(o.rounds):
        result, counts = {}, {}
        for name in list(sides)[:: -1 if i % 2 else 1]:
            prompt, answer, seconds, summary = sides[name](o, requests)
            counts[name] = prompt, answer
            result[name] = (prompt + answer) / seconds
            if summary:
                result["summary"] = summary
            print(f"round {i + 1}: {name} {prompt} + {answer} tokens in {seconds:.1f} s, {result[name]:.1f} tokens/s", flush=True)
        if counts["hearth"] != counts["server"]:
            print("note: the two counted different tokens: is a slot's context too short?", flush=True)
        rounds.append(result)
    ratio = [r["hearth"] / r["server"] for r in rounds]
    print(f"hearth / server: {statistics.median(ratio):.2f} ({min(ratio):.2f}-{max(ratio):.2f})")
    if o.json:
        with open(o.json, "w", encoding="utf-8") as f:
            json.dump({"options": vars(o), "rounds": rounds}, f, indent=1)


if __name__ == "__main__":
    main()
