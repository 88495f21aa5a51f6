#!/usr/bin/env bash
# Evaluate on N processes: one per GPU, or on the CPU where there is none.
#   tools/dist_test.sh CONFIG CHECKPOINT N [options of test.py]
# Several machines: run it on each with NNODES, NODE_RANK, MASTER_ADDR and PORT in the environment.
set -euo pipefail

if [[ $# -lt 3 ]]; then
    echo "usage: $0 CONFIG CHECKPOINT N [options of test.py]" >&2
    exit 2
fi
CONFIG=$1
CHECKPOINT=$2
N=$3
shift 3

NNODES=${NNODES:-1}
if [[ $NNODES == 1 && -z ${PORT:-} ]]; then
    # A free port of its own, so that two runs on one machine never meet.
    RENDEZVOUS=(--standalone)
else
    RENDEZVOUS=(--nnodes "$NNODES" --node_rank "${NODE_RANK:-0}"
        --master_addr "${MASTER_ADDR:-127.0.0.1}" --master_port "${PORT:-29500}")
fi

exec "${PYTHON:-python}" -m torch.distributed.run "${RENDEZVOUS[@]}" --nproc_per_node "$N" \
    "$(dirname "${BASH_SOURCE[0]}")/test.py" "$CONFIG" "$CHECKPOINT" --launcher pytorch "$@"
