#!/usr/bin/env bash
# NAME=esam ZONE=us-west4-a ACCELERATOR=v5litepod-16 RUNTIME=v2-alpha-tpuv5-lite SPOT=yes \
#   NFS=10.0.0.2:/runs IMAGE=... launch/tpu_vm.sh CONFIG WORKDIR [--field.name value ...]
# Queues for a slice, runs launch/local.sh in IMAGE on each of its hosts with NFS as /runs, and
# requests a new slice when this one is preempted; WORKDIR lies in /runs. Run it in tmux on a machine
# that stays up. Restarted, it resumes from the newest checkpoint; SIGTERM to it also ends the run.
# DEVICES: how many JAX must see on all hosts; by default what ACCELERATOR says.
set -uo pipefail

say() { echo "launch: $*" >&2; }

(($# >= 2)) || { say "write launch/tpu_vm.sh CONFIG WORKDIR [--field.name value ...]"; exit 2; }
[[ ! $2 =~ ^[A-Za-z][A-Za-z0-9+.-]+:/ ]] || { say "WORKDIR=$2 is a bucket or URL: name a folder on a local disk or a shared file system (NFS, Lustre, Filestore)"; exit 2; }
for setting in NAME ZONE ACCELERATOR RUNTIME NFS IMAGE; do
    [[ ${!setting-} ]] || { say "$setting is not set: see the head of launch/tpu_vm.sh"; exit 2; }
done
stopping='' stop="sudo docker stop --time 150 esam 2>/dev/null; sudo docker rm --force esam 2>/dev/null"
count=${ACCELERATOR##*-} registry=${IMAGE%%/*}
case $ACCELERATOR in # what its number counts, and what JAX shows as a device
v5litepod-* | v6e-*) ;; # chips, chips
v2-* | v3-*) ;; # cores, cores
v4-* | v5p-*) count=$((count / 2)) ;; # cores, chips of two
*) [[ ${DEVICES-} ]] || { say "set DEVICES: how many JAX shows on $ACCELERATOR is not known here"; exit 2; } ;;
esac
# As the user's bash on each host runs it; every line says which host it comes from.
run="$stop
sudo gcloud auth configure-docker --quiet ${registry@Q}
{ sudo docker volume create --opt type=nfs --opt o=addr=${NFS%%:*} --opt device=:${NFS#*:} esam &&
sudo docker pull --quiet ${IMAGE@Q} &&
sudo docker run --name esam --env RESTARTS=0 --env DEVICES=${DEVICES-$count} --user root --privileged --network host \
    --shm-size 16g --ulimit memlock=-1 --volume esam:/runs ${IMAGE@Q} ${*@Q}; } 2>&1 | sed -u \"s/^/\${HOSTNAME##*-w-}: /\"
exit \${PIPESTATUS[0]}"

queue() { gcloud compute tpus queued-resources "$1" "$NAME" --zone="$ZONE" "${@:2}"; }
state() { # nothing where there is no slice, UNKNOWN where gcloud cannot say
    queue describe --format='value(state.state)' 2>/dev/null ||
        { [[ $(queue describe 2>&1) == *NOT_FOUND* ]] || echo UNKNOWN; }
}
again() { # $1 says why, $2 is the exit code after too many in a row
    ((failures++ < ${RESTARTS:-10})) || { say "gave up after $failures failures in a row"; exit "$2"; }
    say "$1" && rest "$pause"; pause=$((pause * 2 < 300 ? pause * 2 : 300))
}
everywhere() { gcloud compute tpus tpu-vm ssh "$NAME" --zone="$ZONE" --worker=all --command="$1"; }
rest() { sleep "$1" & wait $!; }

trap 'stopping=yes' TERM INT
failures=0 pause=${PAUSE:-30}
until [[ $stopping ]]; do
    now=$(state)
    case $now in
    ACTIVE)
        began=$SECONDS
        everywhere "$run" &
        wait $!
        code=$?
        ((SECONDS - began < 3600)) || failures=0 pause=${PAUSE:-30} # an hour is progress
        [[ ! $stopping ]] || break
        ((code != 0)) || { say "done; delete the slice: gcloud compute tpus queued-resources delete $NAME"; exit 0; }
        [[ $(state) == ACTIVE ]] || { failures=0; continue; } # the slice was lost, whatever the code
        ((code != 2)) || exit 2
        again "the hosts exited with $code and are started again" "$code"
        ;;
    FAILED | SUSPENDED) say "the slice is $now"; queue delete --force --quiet || again "the slice cannot be deleted" 1 ;;
    '') queue create --node-id="$NAME" --accelerator-type="$ACCELERATOR" \
        --runtime-version="$RUNTIME" ${SPOT:+--spot} || again "no slice can be requested" 1 ;;
    *) rest "$pause" ;;
    esac
done
everywhere "$stop"
exit 143
