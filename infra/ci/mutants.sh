#!/usr/bin/env bash
# Asks the tests of a subject whether they notice small changes to its code: infra/ci/mutants.sh SUBJECT [OPTION...]
#
# The options are cargo-mutants'. The tests are those of the subject's own crate, and of them those that are about it: what
# they miss may well be noticed by the tests of the whole, but not by somebody who changes that file. Fails if a change stays
# unnoticed; target/mutants/SUBJECT lists them.
set -euo pipefail
cd "$(dirname "$0")/../.."

subject=${1-}
case $subject in
  auth)        files=('shared/runtime/src/auth.rs') tests=(--lib) ;;
  envelope)    files=('shared/settings/src/envelope.rs') tests=(--lib --test envelope) ;;
  egress)      files=('shared/adapters/src/net/egress.rs' 'shared/adapters/src/net/egress/*.rs') tests=(--lib --test egress) ;;
  chain)       files=('shared/adapters/src/chain.rs' 'shared/adapters/src/chain/*.rs' 'shared/adapters/src/layers/*.rs')
               tests=(--lib --test chain) ;;
  transaction) files=('shared/adapters/src/smtp/transaction.rs' 'shared/adapters/src/smtp/commands.rs') tests=(--lib --test smtp) ;;
  ledger)      files=('shared/delivery/src/ledger.rs' 'shared/delivery/src/ledger/*.rs') tests=(--lib --test ledger) ;;
  *)
    echo "which one? auth, envelope, egress, chain, transaction, ledger" >&2
    exit 2
    ;;
esac
shift

examined=()
for file in "${files[@]}"; do examined+=(--file "$file"); done
mkdir -p target/mutants
cargo mutants --workspace "${examined[@]}" --output "target/mutants/$subject" "$@" -- "${tests[@]}"
