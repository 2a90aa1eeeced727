#!/bin/sh
# Each header compiles alone; hearth.h and blocks.h in C++ too. Usage: headers.sh SOURCE-FOLDER CC CXX
# FLAGS_AVX2 and FLAGS_AVX512 in the environment: what headers named for these levels are compiled with.
set -u
cd "$1" || exit 1
cc=$2 cxx=$3 checked=0 bad=0
flags="-I. -D_GNU_SOURCE -fsyntax-only -Wall -Wextra -Werror -Wno-unused-function"
for header in hearth.h $(find api core cpu gpu offload predictor cli tests/support -name '*.h' 2>/dev/null | sort); do
    case $header in
    *_avx2.h) level=${FLAGS_AVX2:-} ;;
    *_avx512.h) level=${FLAGS_AVX512:-} ;;
    *) level= ;;
    esac
    printf '#include "%s"\n' "$header" | "$cc" $flags $level -std=gnu11 -x c - || { echo "does not compile alone: $header"; bad=1; }
    checked=$((checked + 1))
done
for header in hearth.h core/model/blocks.h; do
    printf '#include "%s"\n' "$header" | "$cxx" $flags -std=c++17 -x c++ - || { echo "does not compile as C++: $header"; bad=1; }
done
[ "$checked" -ge 20 ] || { echo "only $checked headers found"; bad=1; }
echo "$checked headers checked"
exit $bad
