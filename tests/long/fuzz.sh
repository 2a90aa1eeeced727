#!/usr/bin/env bash
# Every fuzz target for ten minutes (HEARTH_FUZZ_LONG: seconds), instead of the 20 seconds of the fuzz tier.
set -eu
cd "$HEARTH_SOURCE"
compiler=(-DCMAKE_C_COMPILER=clang -DCMAKE_CXX_COMPILER=clang++)
command -v clang >/dev/null || { compiler=(); echo "without clang, by blind mutation"; }
cmake --preset fuzz -DHEARTH_CUDA=off "${compiler[@]}" >/dev/null
cmake --build --preset fuzz >/dev/null
seconds=${HEARTH_FUZZ_LONG:-600}
for target in build/fuzz/tests/fuzz/fuzz_*; do
    [ -x "$target" ] && [ -f "$target" ] || continue
    name=${target##*/fuzz_}
    seeds=(tests/fuzz/corpus/"$name")
    [ -d "${seeds[0]}" ] || seeds=()
    found=$(mktemp -d)
    "$target" -max_total_time="$seconds" -timeout=10 -malloc_limit_mb=512 -rss_limit_mb=1024 -max_len=65536 \
        -artifact_prefix="$found"/ "$found" "${seeds[@]}" >"$found.log" 2>&1 || {
        tail -40 "$found.log"
        echo "fuzz_$name FAILED; its input is in $found"
        exit 1
    }
    echo "fuzz_$name: $seconds s, $(ls "$found" | wc -l) inputs found"
    rm -r "$found" "$found.log"
done
