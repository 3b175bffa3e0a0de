#!/usr/bin/env bash
# What only a GPU can tell, in one command of at most eight minutes: planning times at the papers' sizes, alone and ten
# episodes together (the last table of speed/table.md and of together-*/table.md), the tests that need CUDA, training steps per
# second with the loader, and as much of the suites as the time allows. Small files, one folder; a step that fails or runs
# out of time does not lose the others. Not part of the test suite; a test runs it, tiny, on a CPU.
#
#   tests/benchmarks/gpu.sh FOLDER                           # on a machine with CUDA, lewm-bench installed
#   tests/benchmarks/gpu.sh FOLDER --device cpu --tiny       # whether it works, a minute or two
#   PYTHON=venv/bin/python tests/benchmarks/gpu.sh FOLDER --minutes 5
#
# With stable-worldmodel 0.1.1 installed beside lewm-bench its planner is timed too (tests/benchmarks/peer.py).
set -uo pipefail

usage() { sed -n '2,12s/^# \{0,1\}//p' "$0" >&2; exit 2; }
out="" device=cuda tiny="" minutes=8
while [ $# -gt 0 ]; do
  case $1 in
    --device) [ $# -ge 2 ] || usage; device=$2; shift 2 ;;
    --minutes) [ $# -ge 2 ] || usage; minutes=$2; shift 2 ;;
    --tiny) tiny=1; shift ;;
    -*) usage ;;
    *) [ -z "$out" ] || usage; out=$1; shift ;;
  esac
done
[ -n "$out" ] || usage
python=${PYTHON:-python3}
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$out"
out=$(cd "$out" && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
export LEWM_BENCH_CACHE=$scratch/cache
SECONDS=0 failed=0
budget=$((minutes * 60))
printf 'step\tseconds\texit\n' > "$out/steps.tsv"

# step NAME SECONDS COMMAND...: run it, for so long at most and within what is left; its output is NAME.log.
step() {
  local name=$1 limit=$2 left=$((budget - SECONDS)) begun=$SECONDS status
  shift 2
  if [ "$left" -lt 20 ]; then
    printf '%s\t0\tnot run: no time left\n' "$name" >> "$out/steps.tsv"
    return
  fi
  [ "$limit" -le "$left" ] || limit=$left
  timeout --signal=INT --kill-after=20 "$limit" "$@" > "$out/$name.log" 2>&1
  status=$?
  case $status in
    0) ;;
    124) status="124: stopped after $limit s" ;;
    *) failed=1 ;;
  esac
  printf '%s\t%s\t%s\n' "$name" $((SECONDS - begun)) "$status" >> "$out/steps.tsv"
  echo "$name: $((SECONDS - begun)) s, exit $status"
}

# keep FOLDER NAME: the small files of a result, without episodes, pages and films.
keep() {
  mkdir -p "$out/$2"
  for file in table.csv table.md speed.json training.json card.json; do
    [ ! -f "$1/$file" ] || cp "$1/$file" "$out/$2/"
  done
}

if [ -n "$tiny" ]; then
  planner=(--samples 8 --iterations 1 --horizon 2 --methods lewm,dino-wm --set speed.plans=3 --set speed.seconds=0.5)
  profile=quick modes=float32,reference batches='[1,2]' compile=() peer=(--iterations 1 --plans 1)
  together=(float32) training=(--suite smoke) suites=(smoke) suite=(--profile quick --agents random,lewm)
else
  planner=(--set speed.plans=20 --set speed.seconds=5)
  profile=paper modes=float32,tf32,bfloat16,reference batches='[1,10]' compile=(--compile) peer=(--iterations 30 --plans 5)
  together=(tf32 compile)
  training=(--suite tworoom --set collect.episodes=200 --set lewm.train.steps=200)
  suites=(pointmaze pusht) suite=(--profile gpu --seeds 0)
fi

step doctor 60 "$python" -m lewm_bench doctor
# Figures of scaling are left out but for episodes planned together: the rows are what the table needs.
step speed 240 "$python" -m lewm_bench speed --profile $profile --device "$device" --dtype $modes "${compile[@]}" "${planner[@]}" \
  --set 'speed.image_sizes=[]' --set 'speed.samples=[]' --set 'speed.horizons=[]' --set "speed.batches=$batches" \
  --out "$scratch/speed" --quiet
keep "$scratch/speed" speed
# The sweep of the table is in its first arithmetic alone; float32 is bound by operations before the others are.
for mode in "${together[@]}"; do
  step "together-$mode" 60 "$python" -m lewm_bench speed --profile $profile --device "$device" "${planner[@]}" --dtype "$mode" \
    --methods lewm --set 'speed.image_sizes=[]' --set 'speed.samples=[]' --set 'speed.horizons=[]' \
    --set "speed.batches=$batches" --set speed.seconds=20 --out "$scratch/together-$mode" --quiet
  keep "$scratch/together-$mode" "together-$mode"
done
if "$python" -c 'import pytest' 2> /dev/null; then
  step company 60 "$python" -m pytest "$here/../planning/test_company.py" -q -k device
else
  printf 'company\t0\tnot run: pytest is not installed\n' >> "$out/steps.tsv"
fi
if "$python" -c 'import stable_worldmodel' 2> /dev/null; then
  step peer 90 "$python" "$here/peer.py" --device "$device" "${peer[@]}"
else
  printf 'peer\t0\tnot run: stable-worldmodel is not installed\n' >> "$out/steps.tsv"
fi
step training 120 "$python" -m lewm_bench train lewm "${training[@]}" --profile $profile --device "$device" \
  --out "$scratch/training" --quiet
keep "$scratch/training" training
[ ! -f "$out/training/training.json" ] || "$python" - "$out/training" > "$out/training.txt" <<'PYTHON'
import json, pathlib, sys

folder = pathlib.Path(sys.argv[1])
log, card = (json.loads((folder / name).read_text()) for name in ("training.json", "card.json"))
steps = log["columns"]["step"][-1] + 1
train = card["config"]["train"]
print(
    f"{steps / log['seconds']:.2f} training steps per second of {train['batch_size']} clips, {train['precision']}, "
    f"{steps} steps with warm-up; {100 * log['waited'] / log['seconds']:.1f} % waiting for data"
)
PYTHON
for name in "${suites[@]}"; do
  step "suite-$name" "$budget" "$python" -m lewm_bench run --suite $name --device "$device" "${suite[@]}" \
    --out "$scratch/$name" --quiet
  keep "$scratch/$name" "suite-$name"
done
cat "$out/steps.tsv"
exit $failed
