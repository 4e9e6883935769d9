#!/usr/bin/env bash
# One machine, all its devices: launch/local.sh CONFIG WORKDIR [--field.name value ...]
# Started again after a crash, the run resumes by itself.
set -euo pipefail
config=${1:?usage: launch/local.sh CONFIG WORKDIR [--field.name value ...]}
workdir=${2:?usage: launch/local.sh CONFIG WORKDIR [--field.name value ...]}
shift 2
exec esam train "$config" --workdir "$workdir" "$@"
