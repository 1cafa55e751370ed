# Starts the local stack at ports that nobody has, for the script that sources this, and stops it when the script ends.
# Takes $stack, the program. Gives $http, $aws and $smtp (ports), $log, and $work, a directory of its own.
# shellcheck shell=bash

read -r http aws smtp inbox < <(python3 - <<'PORTS'
import socket
sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(4)]
print(*(one.getsockname()[1] for one in sockets))
PORTS
)
work=$(mktemp --directory)
log=$work/stack.log
: >"$log"
# The key of the developer tokens goes there.
export XDG_CACHE_HOME=$work
"${stack:?}" --http "127.0.0.1:$http" --aws "127.0.0.1:$aws" --smtp "127.0.0.1:$smtp" --inbox "127.0.0.1:$inbox" >"$log" 2>&1 &
pid=$!
trap 'kill "$pid" 2>/dev/null || true; wait "$pid" 2>/dev/null || true; rm -rf "$work"' EXIT
for ((tenths = 0; ; tenths++)); do
  grep -q ' sent by ' "$log" && break
  if ((tenths == 600)) || ! kill -0 "$pid"; then
    cat "$log" >&2
    exit 1
  fi
  sleep 0.1
done
