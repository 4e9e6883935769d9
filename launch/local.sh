#!/usr/bin/env bash
# One machine: [PROCESSES=N] launch/local.sh CONFIG WORKDIR [--field.name value ...]
# DEVICES: how many JAX must see in all, else the run does not start; by default this machine's GPUs.
# A run that dies is started again from its newest checkpoint: RESTARTS times in a row at most
# without a newer one, after PAUSE seconds, twice as many each time, five minutes at most. It ends
# for good when it is done (0), when the user must change something (2), or after SIGTERM (143;
# 137 where the state was not saved in GRACE seconds and the processes were killed).
set -uo pipefail
set -m # each process leads a group, so that its data workers can be killed with it

say() { echo "launch: $*" >&2; }
newest() { printf '%s\n' "$workdir"/checkpoints/* | sed -n 's|.*/\([0-9][0-9]*\)$|\1|p' | sort -n | tail -n 1; }
join() { # as process $1 of those that meet at port $2, which is open to this machine alone
    export JAX_NUM_PROCESSES=$processes JAX_PROCESS_ID=$1 JAX_CPU_COLLECTIVES_IMPLEMENTATION=gloo
    export JAX_COORDINATOR_ADDRESS=127.0.0.1:$2 JAX_COORDINATOR_BIND_ADDRESS=127.0.0.1:$2
    local IFS=, share=$((${#gpus[@]} / processes))
    ((share == 0)) || export CUDA_VISIBLE_DEVICES="${gpus[*]:$1*share:share}"
}
start() {
    local port=$((20000 + RANDOM % 10000)) number
    while (: <>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do ((port++)); done # the port is in use
    pids=()
    for ((number = 0; number < processes; number++)); do
        ( ((processes == 1)) || join "$number" "$port"; exec esam train "$config" --workdir "$workdir" "${expected[@]}" "$@") &
        pids+=($!)
    done
}
terminate() { ((${#pids[@]} == 0)) || kill -TERM "${pids[@]}" 2>/dev/null; }
end() { # every process, since none can continue alone; SIGKILL also reaches stopped ones
    terminate
    for ((tick = 0; tick < grace * 5; tick++)); do kill -0 "${pids[@]}" 2>/dev/null || break; sleep 0.2; done
    ! kill -0 "${pids[@]}" 2>/dev/null || late=yes
    for pid in "${pids[@]}"; do kill -KILL -- "-$pid" 2>/dev/null; done
    wait
}

(($# >= 2 && ${PROCESSES:-1} > 0)) || { say "write [PROCESSES=N] launch/local.sh CONFIG WORKDIR [--field.name value ...]"; exit 2; }
[[ ! $2 =~ ^[A-Za-z][A-Za-z0-9+.-]+:/ ]] || { say "WORKDIR=$2 is a bucket or URL: name a folder on a local disk or a shared file system (NFS, Lustre, Filestore)"; exit 2; }
config=$1 workdir=$2 processes=${PROCESSES:-1} grace=${GRACE:-120} gpus=() pids=() expected=() stopping='' late=''
if [[ ${JAX_PLATFORMS:-cuda} =~ cuda|gpu ]]; then
    all=${CUDA_VISIBLE_DEVICES-$(nvidia-smi --query-gpu=index --format=csv,noheader 2>/dev/null | paste -sd, -)}
    IFS=, read -ra gpus <<<"$all"
    ((${#gpus[@]} % processes == 0)) || { say "PROCESSES=$processes must divide ${#gpus[@]} GPUs"; exit 2; }
fi
count=${#gpus[@]} # unless this is one of several machines, or the user counts
[[ ! ${JAX_COORDINATOR_ADDRESS-} && " $*" != *" --peers."[cpd]* ]] || count=0
((${SLURM_STEP_NUM_TASKS:-1} * ${OMPI_COMM_WORLD_SIZE:-1} == 1)) || count=0
devices=${DEVICES-$count}
((devices == 0)) || expected=(--peers.devices "$devices")
trap 'stopping=yes; terminate' TERM INT
best=$(newest) failures=0 pause=${PAUSE:-5}
until [[ $stopping ]]; do
    late=''; start "${@:3}"; [[ ! $stopping ]] || terminate # SIGTERM came during the start
    # The first failure decides: the exit codes of the other processes follow from it.
    for ((left = processes, code = 0; left > 0 && code == 0; left--)); do wait -n; code=$?; done
    end
    ((code != 0 && code != 2)) || exit "$code"
    [[ ! $stopping ]] || break
    now=$(newest); ((${now:-0} <= ${best:-0})) || best=$now failures=0 pause=${PAUSE:-5}
    ((failures++ < ${RESTARTS:-10})) || { say "gave up after $failures starts without progress"; exit "$code"; }
    say "the run exited with $code and is started again"
    sleep "$pause" & pids=($!); [[ ! $stopping ]] || terminate; wait
    pause=$((pause * 2 < 300 ? pause * 2 : 300))
done
[[ ! $late ]] || { say "killed after $grace seconds, before the state was saved: raise GRACE"; exit 137; }
exit 143
