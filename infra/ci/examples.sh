#!/usr/bin/env bash
# Runs the examples of infra/examples against the local stack; each has to see its communication sent.
#
#   infra/ci/examples.sh    builds the local stack, unless it is built
#
# Needs curl, jq, Node 18 or newer with npm, and boto3 for `python3`, as .ci/run installs it.
set -euo pipefail
cd "$(dirname "$0")/../.."

# shellcheck source=infra/ci/stack-program.sh
source infra/ci/stack-program.sh curl jq node npm python3

# TypeScript's compiler, of the versions that the generated clients are compiled with.
tools=$target/examples
mkdir -p "$tools"
cp tests/clients/package.json tests/clients/package-lock.json infra/examples/send.ts "$tools"
npm ci --prefix "$tools" --ignore-scripts --no-audit --no-fund --silent
"$tools/node_modules/.bin/tsc" --strict --target es2022 --module node16 --lib es2022,dom --types node --typeRoots "$tools/node_modules/@types" \
  --skipLibCheck --outDir "$tools/built" "$tools/send.ts"

# shellcheck source=infra/ci/local-stack.sh
source infra/ci/local-stack.sh

API=http://127.0.0.1:$http
TOKEN=$("$stack" token --role SERVICE)
QUEUE_URL=http://127.0.0.1:$aws/123456789012/clinic-comms
export API TOKEN QUEUE_URL
export AWS_ENDPOINT_URL=http://127.0.0.1:$aws AWS_ACCESS_KEY_ID=local AWS_SECRET_ACCESS_KEY=local AWS_DEFAULT_REGION=us-east-1

failed=0
for example in "infra/examples/send.sh" "node $tools/built/send.js" "python3 infra/examples/send.py" \
  "python3 infra/examples/queue_producer.py"; do
  # shellcheck disable=SC2086 # a command and its arguments
  if said=$($example 2>&1); then
    echo "${example##*/}: ok: $said"
  else
    echo "${example##*/}: FAILED: $said" >&2
    failed=1
  fi
done
((failed == 0)) || cat "$log" >&2
exit "$failed"
