#!/usr/bin/env bash
# The test tiers, in the order of how much they find a second: release, ASan + UBSan, TSan, clang, fuzz; with --long the
# long tier too. The whole holds to a time limit, each module to a budget: tests/budgets.txt.
#
#   tests/tiers.sh [--long] [TIER...]     e.g. tests/tiers.sh asan
set -uo pipefail
cd "$(dirname "$0")/.."

goal=$((25 * 60))  # seconds that all should take on two cores; more is told
limit=$((45 * 60)) # and may take, on a machine that is shared; the long tier has its own
jobs=$(nproc)
started=$SECONDS
failed=()
table=build/test-times.txt # tier, module, seconds, tests
mkdir -p build
: >"$table"

say() { printf '== %s\n' "$*"; }
left() { echo $((limit - (SECONDS - started))); }

# Runs a command in what is left of the time.
within_limit() {
    [ "$(left)" -gt 0 ] || { say "out of time"; return 124; }
    timeout "$(left)" "$@"
    local rc=$?
    [ $rc != 124 ] || say "out of time: $limit s are over"
    return $rc
}

build() { # build PRESET cmake-flags...
    local preset=$1 begin=$SECONDS launcher=()
    shift
    ! command -v ccache >/dev/null || launcher=(-DCMAKE_C_COMPILER_LAUNCHER=ccache)
    say "$preset: building"
    mkdir -p build/"$preset"
    { cmake --preset "$preset" -DHEARTH_TESTS=ON -DHEARTH_WERROR=ON -DHEARTH_CUDA=off "${launcher[@]}" "$@" &&
        within_limit cmake --build --preset "$preset"; } >build/"$preset"/build.log 2>&1 || {
        grep -vE '^\[[0-9]+/[0-9]+\]' build/"$preset"/build.log | tail -60
        say "$preset: the build failed; all of it: build/$preset/build.log"
        failed+=("$preset build")
        return 1
    }
    grep '^-- CUDA:' build/"$preset"/build.log | sed 's/^-- /   /'
    echo "$preset build $((SECONDS - begin)) -" >>"$table"
}

check() { # check PRESET ctest-flags...: prints what ctest prints, and which tests were left out and why
    local preset=$1 log=build/$1/test.log
    shift
    say "$preset: testing"
    within_limit $no_randomize ctest --test-dir build/"$preset" --no-tests=error --output-on-failure "$@" 2>&1 | tee "$log"
    [ "${PIPESTATUS[0]}" = 0 ] || failed+=("$preset")
    sed -n 's/^\([a-z]*\) *= *\([0-9.]*\) sec\*proc (\([0-9]*\) tests*)/'"$preset"' \1 \2 \3/p' "$log" >>"$table"
    grep -hiE '^(skipped:|\[(SKIP|----)\].*skip)' build/"$preset"/Testing/Temporary/LastTest.log 2>/dev/null |
        sort | uniq -c | sed 's/^/   /'
}

# On kernels that randomise addresses more than the compiler's runtime expects, TSan needs that switched off.
no_randomize=
tsan_setup() {
    local bits
    bits=$(cat /proc/sys/vm/mmap_rnd_bits 2>/dev/null || echo 28)
    if [ "$bits" -gt 28 ] && setarch -R true 2>/dev/null; then no_randomize="setarch -R"; fi
}

tier() {
    case $1 in
    release) build release && check release -j "$jobs" ;;
    asan) build asan && check asan -j "$jobs" ;;
    tsan)
        tsan_setup
        # Kernels, parsers and headers have no threads of their own, and what commands do with them the engine's tests do.
        # The language model on the emulated GPU takes minutes here; small ones are in gpu.test_steps and gpu.test_features.
        build tsan && check tsan -j "$jobs" -E '^(cpu.test_(attend|dot|rows)|model.test_(types|gguf|safetensors|model|inspect|chat|token.*)|engine.test_(sampler|stop|kv|arch)|cli.test_(run|tools|batch)|gpu.(check_runs|test_resident)|tree.*)$'
        no_randomize=
        ;;
    clang)
        if ! command -v clang >/dev/null; then say "clang: left out, there is no clang"; return; fi
        build clang && check clang -j "$jobs" -L '^(base|model|cpu|engine)$'
        ;;
    fuzz)
        local compiler=(-DCMAKE_C_COMPILER=clang -DCMAKE_CXX_COMPILER=clang++)
        command -v clang >/dev/null || { compiler=(); say "fuzz: without clang, by blind mutation"; }
        build fuzz "${compiler[@]}" && check fuzz -j "$jobs" -L fuzz
        ;;
    long)
        limit=$((limit + 12 * 3600))
        build release && check release -C Long -L long
        ;;
    *) say "there is no tier $1: release asan tsan clang fuzz long"; exit 2 ;;
    esac
}

# Seconds by module and tier against the budget of the module (tests/budgets.txt: module, then seconds by tier).
report() {
    printf '\n%-10s %-10s %9s %8s\n' tier module seconds budget
    awk 'NR == FNR { if (/^#/) { if ($2 == "module") for (i = 3; i <= NF; i++) tier[i - 1] = $i; next }
                     for (i = 2; i <= NF; i++) budget[tier[i], $1] = $i; next }
         { b = (($1, $2) in budget) ? budget[$1, $2] : "-"
           over = (b != "-" && $3 > b + 0) ? "   OVER BUDGET" : ""
           printf "%-10s %-10s %9.1f %8s%s\n", $1, $2, $3, b, over }' \
        tests/budgets.txt "$table"
    local over=
    [ $((SECONDS - started)) -le $goal ] || over="   OVER BUDGET"
    printf '%-10s %-10s %9d %8d%s\n\n' all "" $((SECONDS - started)) $goal "$over"
}

tiers=(release asan tsan clang fuzz)
long=
[ "${1:-}" != --long ] || { long=long; shift; }
[ $# = 0 ] || tiers=("$@")
for t in "${tiers[@]}" $long; do tier "$t"; done
report
if [ ${#failed[@]} -gt 0 ]; then
    say "FAILED: ${failed[*]}"
    exit 1
fi
say "all tests passed: ${tiers[*]} $long"
