#!/usr/bin/env bash
# Sends by the product through real Postfix and Dovecot and counts what arrives: logins, TLS, limits, refusals, greylisting
# and a restart; infra/ci/mail_servers/scenarios.py has what is tried.
#
#   infra/ci/mail-servers.sh [NAME]    all of it in some minutes, or the scenarios with NAME in their name
#
# Needs Debian's postfix, dovecot-submissiond, postgrey and openssl, and root, since Postfix changes to its own user and the
# ports are 465 and 587 of addresses 127.0.1.x. Configurations and spools are below a temporary directory; nothing below
# /etc is read or written but Postfix's list of its own files.
set -euo pipefail
cd "$(dirname "$0")/../.."

export PATH=$PATH:/usr/sbin
for command in postfix dovecot postgrey openssl python3; do
  command -v "$command" >/dev/null || {
    echo "there is no $command here: apt-get install --no-install-recommends postfix dovecot-submissiond postgrey openssl" >&2
    exit 1
  }
done
# Everything, tests too, as infra/ci/events.sh: nothing is built twice.
cargo build --locked --workspace --all-targets
target=$(cargo metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')

as_root=()
((EUID == 0)) || as_root=(sudo --preserve-env=PATH)
work=$(mktemp --directory)
# Postfix, Dovecot and postgrey read what is theirs as users of their own.
chmod 755 "$work"
trap '"${as_root[@]}" rm -rf "$work"' EXIT
status=0
"${as_root[@]}" python3 -B infra/ci/mail_servers "$target/debug/clinic-comms-local" "$work" "${1-}" || status=$?
if ((status != 0)) && [[ -n ${MAIL_SERVER_LOGS-} ]]; then
  mkdir -p "$MAIL_SERVER_LOGS"
  cp "$work/postfix/log" "$MAIL_SERVER_LOGS/postfix.log"
  cp "$work/dovecot/log" "$MAIL_SERVER_LOGS/dovecot.log"
  cp "$work/stack.log" "$MAIL_SERVER_LOGS/stack.log"
fi
exit "$status"
