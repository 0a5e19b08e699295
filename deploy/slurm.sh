#!/usr/bin/env bash
# A command of fcit-ray on a Ray cluster of its own over the nodes of a Slurm job. All nodes need the same environment
# with fcit_ray (activate it before sbatch, or name its bin folder in FCIT_BIN), and see data and run folder at the same
# paths. What stands behind the script goes to fcit-ray:
#   sbatch --nodes=4 deploy/slurm.sh run task_homogeneous disco benchmark.root=/shared/data/FCIT --out /shared/runs/disco --resume
# Two minutes before the time is up, or where the job is preempted, the run is told to leave (SIGTERM); with --resume the
# requeued job goes on from its last checkpoint.
#SBATCH --job-name=fcit-ray
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --gpus-per-node=1
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail
[ $# -gt 0 ] || { echo "deploy/slurm.sh: expected a command of fcit-ray behind it, such as run miniature disco" >&2; exit 2; }
[ -z "${FCIT_BIN:-}" ] || export PATH="$FCIT_BIN:$PATH"

# Another job may have the same node: folder, ports and token are this job's alone. The token goes to the other nodes
# with the environment, which nobody else can read.
number=$((SLURM_JOB_ID % 4000))
port=$((20000 + number))
export RAY_TMPDIR="/tmp/fcit-$SLURM_JOB_ID" RAY_AUTH_MODE=token OMP_NUM_THREADS=1
RAY_AUTH_TOKEN=$(python -c 'import secrets; print(secrets.token_hex(32))')
export RAY_AUTH_TOKEN
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
address="${HEAD_IP:-$(hostname -I | cut -d " " -f 1)}"   # this script runs on the first node; HEAD_IP names another net
take=(--num-cpus="${SLURM_CPUS_PER_TASK:-$(nproc)}" --dashboard-agent-listen-port=$((24000 + number)) --block)

steps=()
run=
leave() {   # the Ray of every node, and what it has left in /tmp
  trap - EXIT
  [ ${#steps[@]} -eq 0 ] || kill "${steps[@]}" 2>/dev/null || true
  wait || true
  rm -rf "$RAY_TMPDIR"
}
trap leave EXIT
trap '[ -z "$run" ] || kill -TERM "$run"; stopped=yes' TERM
stopped=

mkdir -p "$RAY_TMPDIR"
srun --nodes=1 --ntasks=1 --nodelist="$head" --overlap \
  ray start --head --node-ip-address="$address" --port="$port" --include-dashboard=false \
  --ray-client-server-port=$((28000 + number)) "${take[@]}" &
steps+=($!)

# Until all nodes are there: python ray_nodes NUMBER SECONDS
ray_nodes='
import sys, time, ray
number, deadline = int(sys.argv[1]), time.monotonic() + float(sys.argv[2])
found = 0
while time.monotonic() < deadline:
    try:
        if not ray.is_initialized():
            ray.init(logging_level="ERROR", log_to_driver=False)
        found = sum(node["Alive"] for node in ray.nodes())
        if found >= number:
            sys.exit(0)
    except (ConnectionError, RuntimeError):
        pass  # the head is not there yet
    time.sleep(1)
sys.exit(f"deploy/slurm.sh: {found} of {number} Ray nodes have come up; their words stand above")
'
export RAY_ADDRESS="$address:$port"
python -c "$ray_nodes" 1 "${FCIT_WAIT_S:-300}"
if [ "$SLURM_JOB_NUM_NODES" -gt 1 ]; then
  others=$((SLURM_JOB_NUM_NODES - 1))
  srun --nodes="$others" --ntasks="$others" --ntasks-per-node=1 --exclude="$head" --overlap \
    bash -c 'mkdir -p "$RAY_TMPDIR"; trap "rm -rf $RAY_TMPDIR" EXIT; "$@"' worker \
    ray start --address="$RAY_ADDRESS" "${take[@]}" &
  steps+=($!)
  python -c "$ray_nodes" "$SLURM_JOB_NUM_NODES" "${FCIT_WAIT_S:-300}"
fi
[ -z "$stopped" ] || { echo "deploy/slurm.sh: told to end before the run had begun" >&2; exit 143; }

fcit-ray "$@" &
run=$!
code=0
wait "$run" || code=$?
while kill -0 "$run" 2>/dev/null; do   # the wait ended by the signal, which the run has been handed
  code=0
  wait "$run" || code=$?
done
exit "$code"
