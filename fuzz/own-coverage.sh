#!/bin/sh
# Stands in for rustc (`build.rustc-wrapper`): only our own crates are instrumented for coverage and check themselves.
# Paths through the code generator and other dependencies lead the fuzzer nowhere, and its checks of itself cost most
# of the time.
rustc=$1
shift
case " $* " in
*" --crate-name squalus"* | *"/fuzz_targets/"* | *" fuzz_targets/"*)
    exec "$rustc" "$@"
    ;;
esac
count=$#
while [ "$count" -gt 0 ]; do
    argument=$1
    shift
    count=$((count - 1))
    case $argument in
    -Cdebug-assertions | -Cpasses=sancov-module | -Cllvm-args=-sanitizer-coverage* | -Cllvm-args=-simplifycfg-branch-fold-threshold*) ;;
    *) set -- "$@" "$argument" ;;
    esac
done
exec "$rustc" "$@"
