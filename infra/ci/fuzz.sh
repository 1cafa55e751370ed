#!/usr/bin/env bash
# Runs the fuzz targets under libFuzzer, one after the other: infra/ci/fuzz.sh [-s SECONDS] [TARGET...]
#
# All of them for a minute each, unless it is said which and for how long. Needs stable Rust and a C++ compiler; nothing is
# installed. What is reached is kept below the target directory (fuzz/corpus) and goes on from there the next time. An input
# on which a target fails is left in fuzz/found, and belongs into tests/fixtures/fuzz/TARGET, with what mends it.
set -euo pipefail
cd "$(dirname "$0")/../.."

seconds=60
while getopts s: option; do
  case $option in
    s) seconds=$OPTARG ;;
    *) exit 2 ;;
  esac
done
shift $((OPTIND - 1))

# A target directory of its own: everything is built otherwise. The flags are those of cargo-fuzz, without a sanitizer
# (which only nightly has): counters at every edge of the code, and the operands of comparisons.
host=$(rustc --print host-tuple)
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target}/fuzz
export RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares"

# For the host by name: build scripts and macros are then built as usual.
listed=$(
  cargo test --no-run --profile fuzz --target "$host" --message-format json-render-diagnostics --lib --package comms-tests \
    --package comms-adapters --package comms-settings --package comms-delivery --package comms-runtime \
    --package comms-config |
    python3 -c '
import json, sys
for line in sys.stdin:
    message = json.loads(line)
    if message.get("executable") and message["profile"]["test"]:
        print(message["executable"])'
)
mapfile -t programs <<<"$listed"

work=$CARGO_TARGET_DIR
failed=()
for program in "${programs[@]}"; do
  for target in $("$program"); do
    if (($# > 0)) && [[ " $* " != *" $target "* ]]; then
      continue
    fi
    mkdir -p "$work/corpus/$target" "$work/found"
    echo "==> $target, $seconds s"
    # 2 GB and 10 s for one input are far beyond what any may take; a target's own bound of its memory is much closer.
    FUZZ_TARGET=$target "$program" -max_total_time="$seconds" -max_len=32768 -timeout=10 -rss_limit_mb=2048 \
      -print_final_stats=1 -verbosity=1 -artifact_prefix="$work/found/$target-" \
      "$work/corpus/$target" "tests/fixtures/fuzz/$target" >"$work/$target.log" 2>&1 || failed+=("$target")
    grep -E '^stat::number_of_executed_units|^stat::peak_rss_mb|panicked at|^SUMMARY|Test unit written' "$work/$target.log" || true
    grep -oE 'cov: [0-9]+ ft: [0-9]+' "$work/$target.log" | tail -n 1 || true
  done
done
if ((${#failed[@]} > 0)); then
  echo "found something: ${failed[*]}" >&2
  exit 1
fi
