#!/usr/bin/env bash
# Runs fuzz targets for some time each, one after the other: infra/ci/fuzz.sh [-s SECONDS] [TARGET...]
#
# All of them for a minute each, unless told otherwise. Needs stable Rust, a C++ compiler and cargo-fuzz. The corpus stays in
# infra/fuzz/corpus, from which the next run goes on. An input on which a target fails is left in infra/fuzz/artifacts/TARGET
# and belongs into tests/fixtures/fuzz/TARGET, with the change that mends it.
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

fuzz() { cargo fuzz "$1" --fuzz-dir infra/fuzz "${@:2}"; }

# The versions that are deployed.
cp Cargo.lock infra/fuzz/Cargo.lock
fuzz build --sanitizer none
targets=("$@")
((${#targets[@]} > 0)) || mapfile -t targets < <(fuzz list)

log=$(mktemp)
trap 'rm -f "$log"' EXIT
failed=()
for target in "${targets[@]}"; do
  echo "==> $target, $seconds s"
  # 2 GB and 10 s for one input are far beyond what any may take; a target's own bound of its memory is much closer.
  fuzz run --sanitizer none "$target" -- -max_total_time="$seconds" -max_len=32768 -timeout=10 -rss_limit_mb=2048 \
    -print_final_stats=1 >"$log" 2>&1 || { failed+=("$target") && tail -n 60 "$log"; }
  grep -E '^stat::(number_of_executed_units|peak_rss_mb)' "$log" || true
  grep -oE 'cov: [0-9]+ ft: [0-9]+ corp: [0-9]+' "$log" | tail -n 1 || true
done
if ((${#failed[@]} > 0)); then
  echo "failed: ${failed[*]}" >&2
  exit 1
fi
