#!/usr/bin/env bash
# sbatch [--nodes=N --gpus-per-node=8 ...] launch/slurm.sh CONFIG WORKDIR [--field.name value ...]
# One process a node by default; one a GPU with --ntasks-per-node=8 --gpus-per-task=1.
# A run that dies is started again as launch/local.sh does it (RESTARTS, PAUSE). Before the time
# limit and on preemption Slurm signals only the processes: they save and the job is requeued.
# `scancel --batch --signal=TERM JOB` stops this script: the state is saved and the job ends.
#SBATCH --job-name=esam
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --signal=TERM@180
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=esam-%j.log
set -uo pipefail

say() { echo "launch: $*" >&2; }
newest() { printf '%s\n' "$workdir"/checkpoints/* | sed -n 's|.*/\([0-9][0-9]*\)$|\1|p' | sort -n | tail -n 1; }

(($# >= 2)) || { say "write sbatch [OPTIONS] launch/slurm.sh CONFIG WORKDIR [--field.name value ...]"; exit 2; }
config=$1 workdir=$2 stopping=''
# This script runs on the first node, where process 0 listens: there, on one INTERFACE only.
if [[ ${INTERFACE-} ]]; then
    address=$(ip -4 -o addr show dev "$INTERFACE" | awk '{sub("/.*", "", $4); print $4; exit}')
    [[ $address ]] || { say "INTERFACE=$INTERFACE has no IPv4 address here: see ip addr"; exit 2; }
    export JAX_COORDINATOR_ADDRESS=$address:$((61440 + SLURM_JOB_ID % 4096))
    export JAX_COORDINATOR_BIND_ADDRESS=$JAX_COORDINATOR_ADDRESS
fi

trap 'stopping=yes; scancel --quiet --signal=TERM "$SLURM_JOB_ID"' TERM
best=$(newest) failures=0 pause=${PAUSE:-5}
until [[ $stopping ]]; do
    # When one process has ended, the others may still save: they are killed after a minute.
    srun --kill-on-bad-exit=0 --wait=60 esam train "$config" --workdir "$workdir" "${@:3}" &
    step=$!
    wait "$step"
    code=$?
    while kill -0 "$step" 2>/dev/null; do wait "$step"; code=$?; done # a signal had interrupted `wait`
    ((code != 0 && code != 2)) || exit "$code"
    [[ ! $stopping ]] || break
    if ((code == 143)); then # the time limit, or preemption
        say "the state is saved and job $SLURM_JOB_ID is queued again"
        scontrol requeue "$SLURM_JOB_ID" && sleep 60 # Slurm ends this script meanwhile
        exit 143
    fi
    now=$(newest)
    ((${now:-0} <= ${best:-0})) || best=$now failures=0 pause=${PAUSE:-5}
    ((failures++ < ${RESTARTS:-10})) || { say "gave up after $failures starts without progress"; exit "$code"; }
    say "the run exited with $code and is started again"
    sleep "$pause" & wait $!
    pause=$((pause * 2 < 300 ? pause * 2 : 300))
done
say "stopped on request"
exit 143
