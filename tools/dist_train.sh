#!/usr/bin/env bash
# Train on N processes: one per GPU, or on the CPU where there is none.
#   tools/dist_train.sh CONFIG N [options of train.py]
# Several machines: run it on each with NNODES, NODE_RANK, MASTER_ADDR and PORT in the environment.
set -euo pipefail

if [[ $# -lt 2 ]]; then
    echo "usage: $0 CONFIG N [options of train.py]" >&2
    exit 2
fi
CONFIG=$1
N=$2
shift 2

NNODES=${NNODES:-1}
if [[ $NNODES == 1 && -z ${PORT:-} ]]; then
    # A free port of its own, so that two runs on one machine never meet.
    RENDEZVOUS=(--standalone)
else
    RENDEZVOUS=(--nnodes "$NNODES" --node_rank "${NODE_RANK:-0}"
        --master_addr "${MASTER_ADDR:-127.0.0.1}" --master_port "${PORT:-29500}")
fi

exec "${PYTHON:-python}" -m torch.distributed.run "${RENDEZVOUS[@]}" --nproc_per_node "$N" \
    "$(dirname "${BASH_SOURCE[0]}")/train.py" "$CONFIG" --launcher pytorch "$@"
