# For scripts that source it from the repository's root: checks that their programs are installed, and builds the local
# stack. It sets `target`, the target directory, and `stack`, the program.
#
#   source infra/ci/stack-program.sh PROGRAM...
# shellcheck shell=bash
for command in "$@"; do
  command -v "$command" >/dev/null || {
    echo "there is no $command here" >&2
    exit 1
  }
done
target=$(cargo metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
# Everything, tests too, as infra/ci/events.sh: nothing is built twice.
cargo build --locked --workspace --all-targets
# shellcheck disable=SC2034 # for the script that sources this
stack=$target/debug/clinic-comms-local
