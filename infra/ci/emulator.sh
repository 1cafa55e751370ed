#!/usr/bin/env bash
# Deploys the stack by `sam deploy` into ministack, sends through it, loses a clinic's settings and restores them:
# emulator.sh [PROGRAMS], a directory with the functions' programs (default: target/debug). A quarter of an hour at most, of
# which the build is most. Needs `ministack[full]`, aws-sam-cli and boto3 from PyPI.
set -euo pipefail
cd "$(dirname "$0")/../.."

target=$(cargo metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
programs=$(cd "${1:-$target/debug}" && pwd)
architecture=$(uname -m | sed 's/aarch64/arm64/')
port=${MINISTACK_PORT:-4610}
work=$(mktemp --directory)

BIND_HOST=127.0.0.1 GATEWAY_PORT=$port IOT_MTLS_ENABLED=0 ministack >"$work/ministack.log" 2>&1 &
ministack=$!
trap 'kill "$ministack" 2>/dev/null || true; rm -rf "$work"' EXIT
until curl --silent --output /dev/null "http://127.0.0.1:$port/_ministack/health"; do
  kill -0 "$ministack" || { cat "$work/ministack.log" >&2; exit 1; }
  sleep 0.2
done
export AWS_ENDPOINT_URL=http://127.0.0.1:$port AWS_REGION=us-east-1 AWS_DEFAULT_REGION=us-east-1
export AWS_ACCESS_KEY_ID=local AWS_SECRET_ACCESS_KEY=local AWS_EC2_METADATA_DISABLED=true SAM_CLI_TELEMETRY=0

PROGRAMS=$programs ARCHITECTURE=$architecture sam build --build-dir "$work/build" \
  --parameter-overrides "Architecture=$architecture" >"$work/build.log" 2>&1 || { cat "$work/build.log" >&2; exit 1; }
python3 infra/ci/emulator.py "$work/build/template.yaml"

# A stage of its own, as samconfig.toml has others.
cat >"$work/samconfig.toml" <<STAGE
version = 0.1
[emulator.deploy.parameters]
stack_name = "clinic-comms-emulator"
s3_prefix = "clinic-comms-emulator"
resolve_s3 = true
capabilities = "CAPABILITY_IAM CAPABILITY_AUTO_EXPAND"
tags = ["service=clinic-comms", "stage=emulator"]
confirm_changeset = false
fail_on_empty_changeset = false
parameter_overrides = [
  "Stage=emulator",
  "Architecture=$architecture",
  "DeletionProtection=false",
  "JwtIssuer=https://issuer.example.com/",
  "AlarmTopicArn=arn:aws:sns:us-east-1:000000000000:alarms",
  "AwsEndpointUrl=$AWS_ENDPOINT_URL",
]
STAGE
sam deploy --template-file "$work/build/template.yaml" --config-file "$work/samconfig.toml" --config-env emulator \
  >"$work/deploy.log" 2>&1 || { tail -n 40 "$work/deploy.log" "$work/ministack.log" >&2; exit 1; }
tail -n 2 "$work/deploy.log"

python3 infra/ci/emulator_send.py clinic-comms-emulator
python3 infra/ci/emulator_restore.py clinic-comms-emulator
