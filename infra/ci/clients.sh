#!/usr/bin/env bash
# Generates clients from infra/openapi.yaml and lets each talk to the local stack: Python and typescript-fetch by
# openapi-generator, and openapi-typescript's types with openapi-fetch. The programs are in tests/clients.
#
#   infra/ci/clients.sh    builds the local stack, unless it is built
#
# Needs Java 11 or newer, Node 18 or newer with npm, and openapi-generator-cli, pydantic, python-dateutil and urllib3 for
# `python3`, as .ci/run installs them. What is generated stays below the target directory.
set -euo pipefail
cd "$(dirname "$0")/../.."

# shellcheck source=infra/ci/stack-program.sh
source infra/ci/stack-program.sh java node npm python3

clients=$target/clients
rm -rf "$clients"
mkdir -p "$clients"
cp -r tests/clients/. "$clients"
npm ci --prefix "$clients" --ignore-scripts --no-audit --no-fund --silent

jar=$(python3 -c 'import openapi_generator_cli, pathlib
print(pathlib.Path(openapi_generator_cli.__file__).with_name("openapi-generator.jar"))')
generate() { # generate GENERATOR DIRECTORY OPTION...
  local log=$clients/$1.log
  java -jar "$jar" generate --input-spec infra/openapi.yaml --generator-name "$1" --output "$clients/$2" "${@:3}" >"$log" 2>&1 || {
    cat "$log" >&2
    exit 1
  }
  # A name that the generator made up is one that a caller has to use: give the schema a name of its own.
  if grep 'Inline schema created' "$log" >&2; then
    exit 1
  fi
}
generate python python --additional-properties=packageName=clinic_comms
generate typescript-fetch typescript-fetch
"$clients/node_modules/.bin/openapi-typescript" infra/openapi.yaml --output "$clients/openapi-typescript.d.ts" >"$clients/openapi-typescript.log" 2>&1 || {
  cat "$clients/openapi-typescript.log" >&2
  exit 1
}
"$clients/node_modules/.bin/tsc" --project "$clients"

# shellcheck source=infra/ci/local-stack.sh
source infra/ci/local-stack.sh

API=http://127.0.0.1:$http
TOKEN=$("$stack" token --role SUPER_ADMIN)
SMTP_PORT=$smtp
read -r SMTP_USER SMTP_PASSWORD < <(sed -n 's/^ *user  *\([^ ]*\)  *password  *\([^ ]*\)$/\1 \2/p' "$log")
export API TOKEN SMTP_PORT SMTP_USER SMTP_PASSWORD

PYTHONPATH=$clients/python python3 -W "ignore:Field name" "$clients/python_client.py"
node "$clients/built/fetch_client.js"
node "$clients/built/openapi_fetch_client.js"
