#!/bin/sh
# The planted bugs that only a sanitizer sees, each in a process of its own. Usage: bugs.sh PROGRAM address|thread
# The numbers are those of gpu_bug (tests/gpu/bugs.h).
program=$1 sanitizer=$2 bad=0

# expect found|clean TEXT ARGUMENTS...
expect() {
    want=$1 text=$2
    shift 2
    output=$("$program" "$@" 2>&1)
    code=$?
    if [ "$want" = clean ]; then
        [ $code -eq 0 ] && return
        echo "bugs $*: exit $code, expected nothing to be found:"; echo "$output" | head -20; bad=1
    elif [ $code -eq 0 ] || ! echo "$output" | grep -q "$text"; then
        echo "bugs $*: '$text' was not reported (exit $code)"; echo "$output" | head -5; bad=1
    fi
}

for order in 0 1 2; do
    expect clean - 0 $order
    case $sanitizer in
    address)
        expect found "AddressSanitizer" 3 $order
        expect found "runtime error: index 64 out of bounds" 4 $order
        expect found "AddressSanitizer: heap-buffer-overflow" 5 $order
        ;;
    thread)
        for bug in 1 2 6; do expect found "ThreadSanitizer: data race" $bug $order; done
        ;;
    esac
done
if [ "$sanitizer" = thread ]; then
    expect found "ThreadSanitizer: data race" streams
    expect found "ThreadSanitizer: data race" host
    expect clean - ordered
    expect clean - synced
fi
exit $bad
