#!/usr/bin/env bash
# Prints the functions' names, which are the directories of functions/ (a test holds them against `comms_functions::ALL`).
#
#   infra/ci/functions.sh             a name on each line
#   infra/ci/functions.sh packages    the arguments by which cargo builds them: --package comms-send --package …
set -euo pipefail
cd "$(dirname "$0")/../../functions"

case ${1:-} in
  "") printf '%s\n' * ;;
  packages) printf -- '--package comms-%s ' * ;;
  *)
    echo "usage: $0 [packages]" >&2
    exit 2
    ;;
esac
