#!/usr/bin/env bash
# `sam build`, and `sam local invoke` of every function with every event of tests/events, in containers, with the local
# stack as their AWS; each answer is held against tests/events/answers.json.
#
#   infra/ci/sam-local.sh [DIRECTORY]
#
# DIRECTORY has the functions' programs and the local stack's (default: the debug build's). Needs root, Docker (its
# daemon does not have to run), busybox, iproute2 and sam; no registry and no network, since everything runs in network
# namespaces of its own and the base image is made of this machine's libraries. Where something of that is missing it
# says so, and that nothing was run, and ends with 0.
set -euo pipefail
cd "$(dirname "$0")/../.."

not_run() {
  echo "NOT RUN: sam local invoke: $*"
  exit 0
}

for command in sam python3 docker dockerd containerd runc busybox ip unshare; do
  command -v "$command" >/dev/null || not_run "there is no $command here"
done
[[ $(id -u) == 0 ]] || not_run "only root may make network namespaces and start dockerd"
unshare --net true 2>/dev/null || not_run "network namespaces cannot be made here"

target=$(cargo metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
programs=$(cd "${1:-$target/debug}" && pwd)
mapfile -t functions < <(infra/ci/functions.sh)
for program in "${functions[@]}" clinic-comms-local; do
  [[ -x $programs/$program ]] || {
    echo "$programs has no $program: run infra/ci/events.sh first" >&2
    exit 1
  }
done

work=$(mktemp --directory)
trap 'rm -rf "$work"' EXIT
architecture=$(uname -m | sed 's/aarch64/arm64/')

echo "sam build, of what is in $programs"
PROGRAMS=$programs ARCHITECTURE=$architecture sam build --build-dir "$work/build" \
  --parameter-overrides "Architecture=$architecture" >"$work/build.log" 2>&1 || {
  cat "$work/build.log" >&2
  exit 1
}

# The base image: a shell and the tools with which sam adds its Runtime Interface Emulator, what the programs are linked
# to, and the certificates that a machine has.
root=$work/root
mkdir -p "$root/bin" "$root/tmp" "$root/var/task" "$root/var/rapid" "$root/etc/ssl/certs"
cp "$(command -v busybox)" "$root/bin/busybox"
for tool in sh mv chmod cp rm ls cat; do ln -s busybox "$root/bin/$tool"; done
ldd "$root/bin/busybox" >"$work/ldd" 2>&1 || true
for function in "${functions[@]}"; do ldd "$programs/$function" >>"$work/ldd"; done
grep -o '/[^ ]*' "$work/ldd" | sort -u | while read -r library; do
  [[ -f $library ]] && install -D "$library" "$root$library"
done
cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
tar --create --file "$work/root.tar" --directory "$root" .

# Half of the events in each of two namespaces, which cannot meet.
failed=0
lanes=()
for lane in 0 1; do
  unshare --net --mount --pid --fork --kill-child --mount-proc \
    python3 infra/ci/sam_local.py "$work" "$programs" "$architecture" "$lane" 2 &
  lanes+=($!)
done
for lane in "${lanes[@]}"; do wait "$lane" || failed=1; done
exit "$failed"
