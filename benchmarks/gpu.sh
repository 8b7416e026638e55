#!/usr/bin/env bash
# Everything that needs a GPU, in at most eight minutes, in order of worth:
#
#     bash benchmarks/gpu.sh OUT [--prepared FOLDER] [--device cuda|cpu] [--size full|tiny]
#
# FOLDER (default: prepared, in the root of the repository) was made by benchmarks/prepare_gpu.py;
# nothing is fetched. Each part has its own limit and writes what it has as it goes: tables to
# OUT/gpu_*_cuda.json, what it said to OUT/*.log, how it ended to OUT/parts.txt. PYTHON names
# another Python than python3. Without a GPU it says so and ends with 0. The tables belong in
# results/benchmarks.
set -u

out="" prepared="" device=cuda size=full
while [ $# -gt 0 ]; do
    case "$1" in
        --prepared) prepared="$2"; shift 2 ;;
        --device) device="$2"; shift 2 ;;
        --size) size="$2"; shift 2 ;;
        -*) echo "unknown option $1: see the head of benchmarks/gpu.sh" >&2; exit 2 ;;
        *) out="$1"; shift ;;
    esac
done
if [ -z "$out" ]; then
    echo "name the folder for the results: bash benchmarks/gpu.sh OUT" >&2
    exit 2
fi
mkdir -p "$out"
out="$(cd "$out" && pwd)"
[ -n "$prepared" ] && prepared="$(cd "$prepared" && pwd)"
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
prepared="${prepared:-$PWD/prepared}"
part="$prepared/cifar10_part.safetensors"
python="${PYTHON:-python3}"

if [ "$device" != cpu ] && ! "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'
then
    echo "no GPU: torch sees none on this machine, so nothing was measured"
    exit 0
fi
if [ ! -f "$part" ]; then
    echo "$part does not exist; make it with benchmarks/prepare_gpu.py" >&2
    exit 2
fi

# What is missing here, and how our plug-ins are announced.
site="$(mktemp -d)"
trap 'rm -rf "$site"' EXIT
for wheel in "$prepared"/wheels/*.whl; do
    "$python" -m zipfile -e "$wheel" "$site"
done
export PYTHONPATH="$PWD:$site${PYTHONPATH:+:$PYTHONPATH}"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
export PYTEST_DISABLE_PLUGIN_AUTOLOAD=1

# run NAME SECONDS COMMAND...: a part that takes longer is ended; what it wrote stays.
run() {
    local name="$1" limit="$2" started ended status
    shift 2
    started="$(date +%s)"
    timeout --kill-after=5 "$limit" "$@" > "$out/$name.log" 2>&1
    status=$?
    ended="$(date +%s)"
    echo "$name: status $status after $((ended - started)) s of $limit" | tee -a "$out/parts.txt"
}

# script NAME SECONDS: it is told less, so that it ends by itself. Starting counts as well.
script() {
    local name="$1" limit="$2"
    run "$name" "$limit" "$python" "benchmarks/$name.py" --part "$part" --device "$device" \
        --size "$size" --seconds "$((limit - 30))" --out "$out/${name}_$device.json"
}

: > "$out/parts.txt"
if [ "$size" = tiny ]; then
    limits=(300 300 300 300 300)
else
    limits=(120 95 110 85 70)
fi
marked="$(grep -rl -E 'mark\.gpu|on_both' tests --include='test_*.py' | sort)"
tests=(-m gpu)
[ "$device" = cpu ] && tests=(-k "augmentation and flip")
# shellcheck disable=SC2086
run gpu_tests "${limits[0]}" "$python" -m pytest -q --noconftest --continue-on-collection-errors -p no:cacheprovider \
    "${tests[@]}" $marked
script gpu_candidates "${limits[1]}"
script gpu_slots "${limits[2]}"
script gpu_ranking "${limits[3]}"
script gpu_distillation "${limits[4]}"
grep -q 'status [^0]' "$out/parts.txt" && exit 1
exit 0
