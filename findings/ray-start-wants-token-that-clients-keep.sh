#!/usr/bin/env bash
# Ray 2.60.0: `ray start --head` turns token authentication on, and everything else of the same user still has it off.
#
# The head makes ~/.ray/auth_token and says so in one warning. `ray start --address` and `ray.init(address=...)`, the two next
# steps that it prints, read neither the file nor the head's mode: the first ends with AuthenticationError, the second with a
# ConnectionError after half a minute of tries that does not name the token (warnings of its C++ part do). With RAY_AUTH_MODE=token in the environment before
# `import ray` both find the file; set after the import it changes nothing. A cluster that `ray.init()` starts by itself has no token.
# Seen with Python 3.11: "token made True", "second node: AuthenticationError", "client: ConnectionError", "mode set after the
# import: ConnectionError", "with RAY_AUTH_MODE=token: 2 nodes".
set -euo pipefail
place=$(mktemp -d)
export HOME="$place" RAY_USAGE_STATS_ENABLED=0
unset RAY_AUTH_MODE RAY_AUTH_TOKEN RAY_AUTH_TOKEN_PATH RAY_ADDRESS
python3 -m venv "$place/env"
ray="$place/env/bin/ray" python="$place/env/bin/python"
stop() { "$ray" stop --force >"$place/noise" 2>&1 || true; rm -rf "$place"; }
trap stop EXIT
"$place/env/bin/pip" install --quiet --disable-pip-version-check "ray==2.60.0"
port=$("$python" -c "import socket; s = socket.socket(); s.bind(('127.0.0.1', 0)); print(s.getsockname()[1])")
address=127.0.0.1:$port
"$ray" start --head --node-ip-address=127.0.0.1 --port="$port" --num-cpus=1 --include-dashboard=false >"$place/noise" 2>&1
echo "token made $([ -s "$place/.ray/auth_token" ] && echo True || echo False)" | tee "$place/seen"
cat >"$place/client.py" <<'PY'
import os
import sys

import ray

if len(sys.argv) > 2:
    os.environ["RAY_AUTH_MODE"] = "token"
try:
    ray.init(address=sys.argv[1], logging_level="ERROR")
except Exception as error:
    print(type(error).__name__)
else:
    print(len(ray.nodes()), "nodes")
PY
second() { "$ray" start --address="$address" --num-cpus=1 >"$place/second" 2>&1 && echo started || grep -o AuthenticationError "$place/second" | head -n 1; }
client() { "$python" -W ignore "$place/client.py" "$@" 2>"$place/noise"; }
echo "second node: $(second)" | tee -a "$place/seen"
echo "client: $(client "$address")" | tee -a "$place/seen"
echo "mode set after the import: $(client "$address" late)" | tee -a "$place/seen"
export RAY_AUTH_MODE=token
second >"$place/noise"
echo "with RAY_AUTH_MODE=token: $(client "$address")" | tee -a "$place/seen"
diff "$place/seen" - <<'SEEN'
token made True
second node: AuthenticationError
client: ConnectionError
mode set after the import: ConnectionError
with RAY_AUTH_MODE=token: 2 nodes
SEEN
