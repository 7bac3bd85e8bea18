# Sourced by the other scripts: makes .venv beside the repository's files and installs the package into it.
#   source launch/environment.sh EXTRAS        EXTRAS: e.g. "dev"; "" for the package alone
# PYTHON names the interpreter to use (default: python3); it must be 3.11 or newer.
# REFLEX_COMMAND=reflex uses the environment you are in, as it is: nothing is made or installed.
# Leaves the command in the array `reflex`: "${reflex[@]}" train CONFIG
# shellcheck shell=bash disable=SC2034

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
if [[ "${REFLEX_ALLOCATOR:=mimalloc}" != @(mimalloc|system) ]]; then
    echo "REFLEX_ALLOCATOR: expected mimalloc or system, got '$REFLEX_ALLOCATOR'." >&2
    exit 2
fi
if [ -z "${REFLEX_COMMAND:-}" ]; then
    python=${PYTHON:-python3}
    if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
        echo "reflex_jax needs Python >= 3.11, found $("$python" --version 2>&1). Set PYTHON=/path/to/python3.11." >&2
        exit 2
    fi
    [ -x .venv/bin/python ] || "$python" -m venv .venv

    extras=${1:-}
    stamp=.venv/installed-${extras:-base}
    if [ ! -f "$stamp" ] || [ setup.cfg -nt "$stamp" ] || [ constraints-cpu.txt -nt "$stamp" ]; then
        echo "Installing reflex_jax${extras:+[$extras]} into .venv (a few minutes the first time) ..."
        if [ -n "$extras" ]; then
            # torch first and pinned: asked for by name, a CPU-only machine gets the CPU build
            .venv/bin/python -m pip install -q --disable-pip-version-check -c constraints-cpu.txt torch || exit 1
        fi
        .venv/bin/python -m pip install -q --disable-pip-version-check -c constraints-cpu.txt -e ".${extras:+[$extras]}" || exit 1
        touch "$stamp"
    fi
    export PATH="$PWD/.venv/bin:$PATH"
fi
read -r -a reflex <<<"${REFLEX_COMMAND:-reflex}"
# On Linux commands run with the allocator mimalloc, which keeps what is freed for an hour (milliseconds, below), or until the
# program gives it back (`reflex_jax/freed_memory.py`). A step asks for the same temporaries again, and for thousands of small
# blocks from many threads: glibc maps the first anew each time, and searches for the second.
# MIMALLOC_ARENA_MAX_OBJECT_SIZE=1G maps blocks beyond a GiB anew here too: steadier memory, slower steps (benchmarks/RESULTS.md).
# REFLEX_ALLOCATOR=system: with the one you have.
if [ "$REFLEX_ALLOCATOR" = mimalloc ]; then
    mimalloc=$(python -c 'import sysconfig; print(sysconfig.get_path("platlib"))' 2>/dev/null || true)
    mimalloc+=/cmeel.prefix/lib/libmimalloc.so.3
    if [ -f "$mimalloc" ] && [[ "${LD_PRELOAD:-}" != *libmimalloc* ]]; then
        export LD_PRELOAD="$mimalloc${LD_PRELOAD:+:$LD_PRELOAD}"
    fi
    if [[ "${LD_PRELOAD:-}" == *libmimalloc* ]]; then
        export MIMALLOC_PURGE_DELAY="${MIMALLOC_PURGE_DELAY:-3600000}"
    fi
fi
# GPUs: `reflex` itself has JAX take 92 % of each card (its own default is 75 %). To leave more to others:
#   export XLA_CLIENT_MEM_FRACTION=.7
