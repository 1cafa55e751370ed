#!/usr/bin/env bash
# Which crate of the workspace may use which, and who may use AWS's crates: the rules of ARCHITECTURE.md.
# Prints every edge that breaks a rule and fails. Dev-dependencies are free.
set -euo pipefail
cd "$(dirname "$0")/../.."

functions=$(infra/ci/functions.sh | sed 's/^/comms-/' | tr '\n' ' ')

# A crate of the workspace -> the crates of the workspace it may use.
declare -A may_use=(
  [comms-core]=""
  [comms-adapters]="comms-core"
  [comms-aws]="comms-core"
  [comms-settings]="comms-adapters comms-aws comms-core"
  [comms-runtime]="comms-core"
  [comms-delivery]="comms-adapters comms-settings comms-aws comms-core"
  # Stands beside them: as a dev-dependency of all, it can know no more than the words they share.
  [comms-testkit]="comms-core"
  # A developer's tool, never deployed: the one place where the testkit is an ordinary dependency. Of the adapters it
  # takes when a provider that is down is probed.
  [comms-local]="comms-functions comms-adapters comms-runtime comms-settings comms-core comms-testkit"
  # The list of the functions, for the local stack, the benchmarks and the tests.
  [comms-functions]="$functions comms-runtime"
  # The operator's commands, never deployed. Of the adapters it takes the TLS set-up, of delivery
  # the ledger.
  [comms-operator]="comms-adapters comms-delivery comms-settings comms-aws comms-runtime comms-core"
  # What the integration tests share knows everything, and nothing knows it.
  [comms-tests]="$functions comms-functions comms-delivery comms-adapters comms-settings comms-runtime comms-core comms-testkit"
  [comms-bench]=""
)
for function in $functions; do
  may_use[$function]="comms-delivery comms-adapters comms-settings comms-aws comms-runtime comms-core"
done

# A crate from outside -> the crates of the workspace that may use it directly. Patterns are bash's.
declare -A users_of=(
  ["lambda_*"]="comms-runtime comms-tests $functions"
  ["aws_lambda_events"]="comms-runtime $functions"
  ["aws-sdk-sesv2"]="comms-adapters"
  ["aws-sdk-sts"]="comms-adapters"
  ["aws-sdk-dynamodb"]="comms-aws comms-settings comms-delivery comms-local comms-testkit comms-tests"
  ["aws-sdk-kms"]="comms-aws comms-settings comms-local"
  # Of the worker and the operator the types of message attributes.
  ["aws-sdk-sqs"]="comms-aws comms-worker comms-operator comms-local comms-testkit comms-tests"
  ["dynoxide-rs"]="comms-testkit"
  ["winterbaume-*"]="comms-testkit"
)

contains() { # contains "a b c" b
  [[ " $1 " == *" $2 "* ]]
}

# Where the programs run or are developed, as in deny.toml: not `all`, which has `cfg(fuzzing)` among it.
platforms=()
for platform in aarch64-unknown-linux-gnu x86_64-unknown-linux-gnu aarch64-apple-darwin; do
  platforms+=(--target "$platform")
done

# `name[ vX.Y.Z …]` lines: for each platform the crate itself, then what it uses directly.
uses() {
  cargo tree --locked --package "$1" --edges normal,build "${platforms[@]}" --depth 1 --prefix none --format '{p}' |
    sed "s/ .*//; /^\[/d; /^$/d; /^$1\$/d" | sort -u
}

members=$(cargo tree --locked --workspace --edges normal --depth 0 --prefix none --format '{p}' |
  sed 's/ .*//; /^$/d' | sort -u | tr '\n' ' ')

broken=0
complain() {
  echo "imports: $*" >&2
  broken=1
}

for member in $members; do
  if [[ ! -v may_use[$member] ]]; then
    complain "$member has no rule in infra/ci/imports.sh"
    continue
  fi
  used=$(uses "$member")
  for crate in $used; do
    if contains "$members" "$crate"; then
      contains "${may_use[$member]}" "$crate" || complain "$member -> $crate is not allowed"
    fi
    for pattern in "${!users_of[@]}"; do
      # shellcheck disable=SC2053 # the right side is a pattern
      if [[ $crate == $pattern ]]; then
        contains "${users_of[$pattern]}" "$member" ||
          complain "$member -> $crate is not allowed: only ${users_of[$pattern]} may use $pattern"
      fi
    done
  done
done

((broken == 0)) && echo "imports: $(wc -w <<<"$members") crates keep to the rules"
exit "$broken"
