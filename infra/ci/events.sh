#!/usr/bin/env bash
# Builds the functions' programs, and gives each of them every event of tests/events under the Lambda Runtime API; the
# answers are held against tests/events/answers.json (tests/api/events.rs).
#
#   infra/ci/events.sh            the debug build
#   infra/ci/events.sh release    what `sam build` packages; takes minutes
set -euo pipefail
cd "$(dirname "$0")/../.."

target=$(cargo metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
case ${1:-debug} in
  debug)
    # Everything, tests too: cargo settles features for what it builds together, and `cargo test --workspace` has built
    # all but the functions' programs like this.
    cargo build --locked --workspace --all-targets
    ;;
  release)
    # As infra/lambda/Makefile does.
    # shellcheck disable=SC2046 # arguments, not one
    cargo build --locked --release $(infra/ci/functions.sh packages)
    ;;
  *)
    echo "usage: $0 [debug|release]" >&2
    exit 2
    ;;
esac
FUNCTIONS_DIR=$target/${1:-debug} cargo test --locked --workspace --test api -- events::
