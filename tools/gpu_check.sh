#!/usr/bin/env bash
# Check mmext on a machine with an NVIDIA GPU that has torch but reaches no package index.
#
#   tools/gpu_check.sh --download             where there is an index: fill wheels/
#   tools/gpu_check.sh                        on the GPU machine, with the checkout and wheels/
#
# Makes a virtual environment over the Python that has torch, installs wheels/ into it, and runs the
# tests marked gpu, the codec of TernGrad in Triton against torch, and CST at full size. Results go
# to projects/<plugin>/results/gpu/*.json, logs to work_dirs/gpu_check/. A step that fails is
# reported and the others go on; the exit code is 1 if any failed, 2 if nothing could be started.
#
# Meant for Python 3.12 with torch 2.11 and torchvision. It has not been run on a GPU yet.
#
# Options:
#   --wheels DIR     folder of wheels (default: wheels/, ignored by git)
#   --python PYTHON  interpreter that has torch (default: python3)
#   --env DIR        virtual environment (default: work_dirs/gpu_check/env)
#   --steps LIST     some of environment,doctor,tests,codec,cst (default: all, in this order)
#   --quick          the short forms of codec and cst; their results go to work_dirs/gpu_check/
#   --dry-run        print what would be run, run nothing
#   --download       fill the folder of wheels for Python 3.12 on x86-64 Linux, and stop
set -uo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
WHEELS=$ROOT/wheels
PYTHON=python3
WORK=$ROOT/work_dirs/gpu_check
ENVIRONMENT=$WORK/env
KNOWN=(environment doctor tests codec cst)
STEPS=("${KNOWN[@]}")
QUICK=0
DRY=0
DOWNLOAD=0

# Pure Python, so one wheel serves every machine; the last two are compiled and made for one.
PACKAGES=(mmengine mmcv-lite mmdet mmpretrain
    addict einops importlib-metadata iniconfig markdown-it-py mat4py mdurl model-index modelindex
    ordered-set platformdirs pluggy pygments pytest pytest-timeout rich six termcolor terminaltables
    tqdm yapf zipp
    pycocotools shapely)

fail() {
    echo "gpu_check.sh: error: $1" >&2
    exit 2
}

while [[ $# -gt 0 ]]; do
    case $1 in
        --wheels | --python | --env | --steps)
            [[ $# -ge 2 ]] || fail "$1 needs a value"
            case $1 in
                --wheels) WHEELS=$2 ;;
                --python) PYTHON=$2 ;;
                --env) ENVIRONMENT=$2 ;;
                --steps) IFS=, read -r -a STEPS <<<"$2" ;;
            esac
            shift 2
            ;;
        --quick) QUICK=1 && shift ;;
        --dry-run) DRY=1 && shift ;;
        --download) DOWNLOAD=1 && shift ;;
        -h | --help)
            sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"
            exit 0
            ;;
        *) fail "unknown argument $1; see --help" ;;
    esac
done
for step in "${STEPS[@]}"; do
    [[ " ${KNOWN[*]} " == *" $step "* ]] || fail "--steps: no step '$step'; choose from ${KNOWN[*]}"
done

# Print a command, and run it unless this is a dry run.
run() {
    printf '+'
    printf ' %q' "$@"
    printf '\n'
    [[ $DRY == 1 ]] || "$@"
}

if [[ $DOWNLOAD == 1 ]]; then
    run "$PYTHON" -m pip download --quiet --no-deps --only-binary=:all: --python-version 3.12 \
        --implementation cp --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 \
        --platform manylinux2014_x86_64 -c "$ROOT/requirements/constraints.txt" \
        --dest "$WHEELS" "${PACKAGES[@]}" || fail 'the download failed'
    exit 0
fi

PROBE='import sys, torch
assert (3, 10) <= sys.version_info[:2] <= (3, 12), f"Python {sys.version.split()[0]}, not 3.10-3.12"
assert torch.cuda.is_available(), "no GPU is visible to torch " + torch.__version__
print("torch", torch.__version__, "on", torch.cuda.get_device_name(0))'
if [[ $DRY == 0 ]]; then
    command -v "$PYTHON" >/dev/null || fail "there is no $PYTHON; name one by --python"
    found=$("$PYTHON" -c "$PROBE" 2>&1) || fail "$PYTHON: ${found##*$'\n'}"
    echo "$found"
    if [[ " ${STEPS[*]} " == *' environment '* ]] && ! compgen -G "$WHEELS/*.whl" >/dev/null; then
        fail "no wheels in $WHEELS; fill it where there is a package index: $0 --download"
    fi
fi

INTERPRETER=$ENVIRONMENT/bin/python

# The environment sees the packages of PYTHON, also where that is a virtual environment itself.
LINK='import sys, sysconfig
from pathlib import Path
env, root = Path(sys.argv[1]), sys.argv[2]
paths = dict(base=str(env), platbase=str(env))
own = Path(sysconfig.get_path("purelib", "venv", vars=paths))
shared = dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib"))
lines = [f"import site; site.addsitedir({path!r})\n" for path in shared]
(own / "shared.pth").write_text("".join(lines))
(own / "mmext.pth").write_text(f"{root}\nimport _mmext_startup\n")'

environment() {
    run "$PYTHON" -m venv --clear --without-pip --system-site-packages "$ENVIRONMENT" &&
        run "$PYTHON" -c "$LINK" "$ENVIRONMENT" "$ROOT" &&
        run "$PYTHON" -m pip --python "$INTERPRETER" install --quiet --no-index --no-deps \
            "$WHEELS"/*.whl &&
        run "$INTERPRETER" -c 'import mmext, mmdet, mmpretrain; print(mmext.__file__)'
}

doctor() {
    run "$INTERPRETER" "$ROOT/tools/doctor.py"
}

tests() {
    # Only files with such tests: others may import packages that are not in the wheels.
    local files
    mapfile -t files < <(grep -rl --include='*.py' 'mark\.gpu' "$ROOT/tests")
    run "$INTERPRETER" -m pytest -m gpu -q -rs "${files[@]}"
}

codec() {
    local options=()
    [[ $QUICK == 0 ]] || options=(--quick --out "$WORK")
    run "$INTERPRETER" "$ROOT/projects/terngrad/codec_gpu.py" "${options[@]}"
}

cst() {
    local options=(--work-dir "$WORK/cst")
    [[ $QUICK == 0 ]] || options+=(--quick)
    run "$INTERPRETER" "$ROOT/projects/cst/gpu.py" "${options[@]}"
}

failed=()
[[ $DRY == 1 ]] || mkdir -p "$WORK"
cd "$ROOT" || fail "cannot enter $ROOT"
for step in "${STEPS[@]}"; do
    echo "== $step"
    if [[ $DRY == 1 ]]; then
        "$step"
        continue
    fi
    began=$SECONDS
    "$step" 2>&1 | tee "$WORK/$step.log"
    code=${PIPESTATUS[0]}
    echo "== $step: exit code $code after $((SECONDS - began)) s, log in $WORK/$step.log"
    [[ $code == 0 ]] || failed+=("$step")
done
if [[ ${#failed[@]} -gt 0 ]]; then
    echo "gpu_check.sh: failed: ${failed[*]}" >&2
    exit 1
fi
[[ $DRY == 1 ]] || echo 'gpu_check.sh: all steps passed'
