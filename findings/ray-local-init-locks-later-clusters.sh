#!/usr/bin/env bash
# Ray 2.60.0: one local `ray.init()` makes every cluster that the same user starts later refuse that user's own clients.
#
# A cluster that `ray.init()` starts by itself has token authentication on, and leaves ~/.ray/auth_token behind. From then on
# `ray start --head` turns it on too, since a token is there (without the file it warns and leaves it off). Its clients, `ray start --address` and
# `ray.init(address=...)`, read neither the file nor the head's mode: the first ends with AuthenticationError, the second with a
# ConnectionError after half a minute that does not name the token. RAY_AUTH_MODE=token in the environment before `import ray` helps both; set
# after the import it changes nothing.
# Seen with Python 3.11: "before: 1 nodes", "token left True", "after: ConnectionError, second node AuthenticationError",
# "mode set after the import: ConnectionError", "with RAY_AUTH_MODE=token: 1 nodes".
set -euo pipefail
place=$(mktemp -d)
export HOME="$place" RAY_USAGE_STATS_ENABLED=0
unset RAY_AUTH_MODE RAY_AUTH_TOKEN RAY_AUTH_TOKEN_PATH RAY_ADDRESS
python3 -m venv "$place/env"
ray="$place/env/bin/ray" python="$place/env/bin/python" head=""
stop() { [ -z "$head" ] || { kill "$head" && wait "$head" || true; } 2>/dev/null; head=""; }
trap 'stop; rm -rf "$place"' EXIT
"$place/env/bin/pip" install --quiet --disable-pip-version-check "ray==2.60.0"
port=$("$python" -c "import socket; s = socket.socket(); s.bind(('127.0.0.1', 0)); print(s.getsockname()[1])")
address=127.0.0.1:$port
start() {
  : >"$place/head.log"
  "$ray" start --head --block --node-ip-address=127.0.0.1 --port="$port" --num-cpus=1 --include-dashboard=false >"$place/head.log" 2>&1 &
  head=$!
  for _ in $(seq 300); do ! grep -q "Ray runtime started" "$place/head.log" || return 0; sleep 0.2; done
  return 1
}
cat >"$place/client.py" <<'PY'
import os
import sys

import ray

if len(sys.argv) > 2:
    os.environ["RAY_AUTH_MODE"] = "token"
try:
    ray.init(address=sys.argv[1], logging_level="ERROR", log_to_driver=False)
except Exception as error:
    print(type(error).__name__)
else:
    print(len(ray.nodes()), "nodes")
PY
client() { "$python" -W ignore "$place/client.py" "$@" 2>"$place/noise" | grep -E "^([0-9]+ nodes|[A-Za-z]+Error)$"; }
second() { timeout 60 "$ray" start --address="$address" --num-cpus=1 2>&1 | grep -o AuthenticationError | head -n 1 || true; }
start
echo "before: $(client "$address")" | tee "$place/seen"
stop
"$python" -W ignore -c "import ray; ray.init(address='local', num_cpus=1, include_dashboard=False)" >"$place/noise" 2>&1
echo "token left $([ -s "$place/.ray/auth_token" ] && echo True || echo False)" | tee -a "$place/seen"
start
echo "after: $(client "$address"), second node $(second)" | tee -a "$place/seen"
echo "mode set after the import: $(client "$address" late)" | tee -a "$place/seen"
echo "with RAY_AUTH_MODE=token: $(RAY_AUTH_MODE=token client "$address")" | tee -a "$place/seen"
diff "$place/seen" - <<'SEEN'
before: 1 nodes
token left True
after: ConnectionError, second node AuthenticationError
mode set after the import: ConnectionError
with RAY_AUTH_MODE=token: 1 nodes
SEEN
