#!/usr/bin/env bash
# sbatch [--nodes=N --gpus-per-node=8 ...] launch/slurm.sh CONFIG WORKDIR [--field.name value ...]
# One process a node by default; one a GPU with --ntasks-per-node=8. The job has its nodes to itself:
# for a part of one add --oversubscribe --cpus-per-task=16 --mem=100G.
# CONTAINER=esam.sif runs in apptainer, any other image in pyxis; MOUNTS=/data:/data,... adds folders.
# A run that dies is started again as launch/local.sh does it (RESTARTS, PAUSE). Before the time limit
# and on preemption Slurm signals only the processes: they save and the job is requeued; it is, too,
# when a node is lost. `scancel --batch --signal=TERM JOB` stops this script: save, and stop for good.
#SBATCH --job-name=esam
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --mem=0
#SBATCH --signal=TERM@180
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=esam-%j.log
set -uo pipefail

say() { echo "launch: $*" >&2; }
newest() { printf '%s\n' "$workdir"/checkpoints/* | sed -n 's|.*/\([0-9][0-9]*\)$|\1|p' | sort -n | tail -n 1; }
requeue() {
    say "$1: job $SLURM_JOB_ID is queued again"
    scontrol requeue "$SLURM_JOB_ID" && sleep 60 # Slurm ends this script meanwhile
    exit 143
}
lost() { # nodes of this job that are down, do not answer (*), or are not to be used again
    scontrol --oneliner show node "$SLURM_JOB_NODELIST" |
        sed -nE 's/^NodeName=(\S+) .* State=(\S*(\*|NOT_RESP|DOWN|DRAIN|FAIL)\S*) .*/\1 is \2/p' | paste -sd, -
}

(($# >= 2)) || { say "write sbatch [OPTIONS] launch/slurm.sh CONFIG WORKDIR [--field.name value ...]"; exit 2; }
[[ ! $2 =~ ^[A-Za-z][A-Za-z0-9+.-]+:/ ]] || { say "WORKDIR=$2 is a bucket or URL: name a folder on a local disk or a shared file system (NFS, Lustre, Filestore)"; exit 2; }
config=$1 workdir=$(realpath --canonicalize-missing -- "$2") stopping='' nodes=$SLURM_JOB_NUM_NODES
# Since Slurm 22.05 srun gives a task one CPU unless told otherwise: they share those of the smallest node.
cpus=$(tr , '\n' <<<"$SLURM_JOB_CPUS_PER_NODE" | sort -n | sed 's/(.*//;q') share=$((cpus * nodes / SLURM_NTASKS))
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-$((share > 1 ? share : 1))}
# With all GPUs of its node in sight, a process reaches those of others directly; it takes its own.
step=(srun --label --kill-on-bad-exit=0 --wait=60 --gpu-bind=none)
run=(esam train "$config" --workdir "$workdir")
# How many devices JAX must see: "16", "h100:16" and "a100:4,h100:4" are forms of --gpus.
gpus=$(sed 's/[^,]*://g; s/,/+/g' <<<"${SLURM_GPUS-$nodes * ${SLURM_GPUS_ON_NODE:-0}}") devices=${DEVICES-$((gpus))}
((devices == 0)) || run+=(--peers.devices "$devices")
if [[ ${CONTAINER-} ]]; then
    mkdir -p "$workdir" || { say "WORKDIR=$workdir cannot be created: see the line above"; exit 2; }
    case $CONTAINER in
    *.sif) run=(apptainer exec --nv --bind "$workdir${MOUNTS:+,$MOUNTS}" "$CONTAINER" "${run[@]}") ;;
    *)
        [[ $(srun --help) == *--container-image* ]] || { say "CONTAINER=$CONTAINER needs pyxis, which this Slurm lacks: name a .sif"; exit 2; }
        step+=(--container-image="$CONTAINER" --container-mounts="$workdir:$workdir${MOUNTS:+,$MOUNTS}")
        ;;
    esac
fi
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
    "${step[@]}" "${run[@]}" "${@:3}" &
    pid=$!
    wait "$pid"
    code=$?
    while kill -0 "$pid" 2>/dev/null; do wait "$pid"; code=$?; done # a signal had interrupted `wait`
    ((code != 0)) || exit 0
    [[ ! $stopping ]] || break
    ((code != 143)) || requeue "the state is saved" # the time limit, or preemption
    gone=$(lost)
    [[ ! $gone ]] || requeue "$gone"
    ((code != 2)) || exit 2
    now=$(newest)
    ((${now:-0} <= ${best:-0})) || best=$now failures=0 pause=${PAUSE:-5}
    ((failures++ < ${RESTARTS:-10})) || { say "gave up after $failures starts without progress"; exit "$code"; }
    say "the run exited with $code and is started again"
    sleep "$pause" & wait $!
    pause=$((pause * 2 < 300 ? pause * 2 : 300))
done
say "stopped on request"
exit 143
