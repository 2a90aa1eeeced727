#!/usr/bin/env bash
# kill -9 at random moments over batch jobs, a thousand times: each time a job gets done, its results must be, byte for
# byte, those of an undisturbed run.
#
#   HEARTH_CLI=build/release/hearth tests/long/batch_kill.sh [KILLS [SEED]]
set -euo pipefail
source=${HEARTH_SOURCE:-$(cd "$(dirname "$0")/../.." && pwd)}
hearth=${HEARTH_CLI:?the hearth command}
kills=${1:-1000}
seed=${2:-$(date +%s)}
model=$source/tests/data/models/kjv-relu-7m/kjv-relu-7m-q4.gguf
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
RANDOM=$seed
echo "$kills kills, seed $seed"

# Lines of mixed lengths, some with several answers, some in error; shared beginnings.
prompts=("In the beginning God" "And Moses said" "And Moses said unto the people, Fear ye not" "The LORD is" "Blessed are the")
for i in $(seq 1 60); do
    more=
    case $((i % 6)) in 1) more=',"n":2' ;; 2) more=',"logprobs":2' ;; 3) more=',"stop":["."]' ;; 4) more=",\"seed\":$i" ;; esac
    if [ $((i % 20)) = 0 ]; then echo "no JSON at all, $i"; continue; fi
    printf '{"custom_id":"%d","method":"POST","url":"/v1/completions","body":{"prompt":"%s","max_tokens":%d%s}}\n' \
        "$i" "${prompts[i % 5]}" $((1 + i * 37 % 40)) "$more"
done >"$folder/jobs.jsonl"

# In place of a subshell, so that a kill strikes the command itself.
run() { exec "$hearth" batch -m "$model" -i "$folder/jobs.jsonl" -o "$folder/$1" -c 128 -np 6 -t 2 -q; }
begin=$(date +%s%N)
(run whole.jsonl)
whole=$((($(date +%s%N) - begin) / 1000)) # microseconds

check() {
    cmp "$folder/whole.jsonl" "$folder/results.jsonl" || { echo "FAILED: the results differ (seed $seed)"; exit 1; }
    rm -f "$folder"/results.jsonl*
}

done_jobs=0
struck=0
for ((runs = 0; struck < kills && runs < 20 * kills; runs++)); do
    run results.jsonl 2>"$folder/err" &
    pid=$!
    wait_us=$(((RANDOM << 15 | RANDOM) % whole))
    sleep "$((wait_us / 1000000)).$(printf %06d $((wait_us % 1000000)))"
    kill -KILL "$pid" 2>/dev/null || true
    code=0
    wait "$pid" 2>/dev/null || code=$?
    case $code in
    0) check; done_jobs=$((done_jobs + 1)) ;;
    137) struck=$((struck + 1)) ;;
    *) echo "FAILED: exit code $code after $struck kills (seed $seed)"; cat "$folder/err"; exit 1 ;;
    esac
done
[ "$struck" = "$kills" ] || { echo "FAILED: only $struck kills struck"; exit 1; }
(run results.jsonl)
check
echo "$struck kills over $((done_jobs + 1)) jobs of $(awk -v t=$whole 'BEGIN { printf "%.1f", t / 1e6 }') s: the same results each time"
