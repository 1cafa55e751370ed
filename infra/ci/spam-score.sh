#!/usr/bin/env bash
# Gives the mail of the demo events, and of tests/fixtures/mail, to SpamAssassin and rspamd (Debian packages), and fails where
# one of them holds more than 0.5 points against its content. Both run from directories of their own, without the network:
# rspamd in the foreground on loopback, SpamAssassin with -L. Which rules are about the way of a message and not about its
# content, infra/ci/spam_score.py says.
set -euo pipefail
cd "$(dirname "$0")/../.."

for program in spamassassin rspamd; do
  command -v "$program" >/dev/null || {
    echo "there is no $program here: apt-get install --no-install-recommends spamassassin rspamd" >&2
    exit 1
  }
done

work=$(mktemp -d)
rspamd=
end() {
  if [[ -n $rspamd ]]; then
    kill "$rspamd" 2>/dev/null || true
    wait "$rspamd" 2>/dev/null || true
  fi
  rm -rf "$work"
}
trap end EXIT

mkdir -p "$work"/{mail,home,spamassassin,rspamd/override.d,rspamd/local.d,run,db,log}
cargo run --quiet --locked --package comms-adapters --example mime -- "$work/mail" \
  tests/events/send-post-*.json tests/events/worker-*.json tests/fixtures/mail/*.json

cat >"$work/spamassassin/local.cf" <<'CONFIG'
use_bayes 0
use_auto_whitelist 0
add_header all Rules _TESTSSCORES(,)_
CONFIG
# Its plugins are named in the package's own directory.
cp /etc/spamassassin/*.pre "$work/spamassassin/"

port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
cat >"$work/rspamd/override.d/worker-normal.inc" <<CONFIG
enabled = true;
count = 1;
bind_socket = "127.0.0.1:$port";
CONFIG
for worker in controller proxy fuzzy; do
  echo 'enabled = false;' >"$work/rspamd/override.d/worker-$worker.inc"
done
# What asks others: blocklists, DNS, Redis, the fuzzy storage of rspamd.com.
for module in rbl surbl spf dkim arc dmarc asn fuzzy_check neural history_redis greylist ratelimit replies phishing hfilter \
  once_received mx_check rspamd_update; do
  echo 'enabled = false;' >"$work/rspamd/override.d/$module.conf"
done
cat >"$work/rspamd/override.d/options.inc" <<'CONFIG'
dns { nameserver = ["127.0.0.1:9"]; timeout = 0.1s; retransmits = 1; }
CONFIG
echo 'enabled = false;' >"$work/rspamd/override.d/classifier-bayes.conf"

insecure=()
((EUID == 0)) && insecure=(--insecure)
rspamd --no-fork "${insecure[@]}" --config /etc/rspamd/rspamd.conf --var="LOCAL_CONFDIR=$work/rspamd" \
  --var="DBDIR=$work/db" --var="RUNDIR=$work/run" --var="LOGDIR=$work/log" >"$work/log/out" 2>&1 &
rspamd=$!

if ! HOME="$work/home" python3 infra/ci/spam_score.py "http://127.0.0.1:$port" "$work/spamassassin" "$work/mail"; then
  # What rspamd says of itself, without a message in it.
  grep -h ' <main>\|error' "$work/log/out" "$work/log"/*.log 2>/dev/null | tail -n 20 >&2 || true
  exit 1
fi
