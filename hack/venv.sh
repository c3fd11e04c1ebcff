# Sourced by the other scripts: a virtual environment in .venv that holds what setup.cfg asks for.
# Needs Python 3.11 or newer, bash and coreutils; everything else comes from the package index pip is set up for.

# venv EXTRAS: make or update .venv and put it first on PATH.
venv() {
  local extras=$1 root python stamp want
  root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
  want=$(cat "$root/setup.cfg" "$root/pyproject.toml" "$root/agentops/_version.py" | sha256sum | cut -c1-16)
  stamp=$root/.venv/installed-$want-${extras//,/-}
  if [ ! -e "$stamp" ]; then
    python=$(find_python) || return 1
    [ -x "$root/.venv/bin/python" ] || "$python" -m venv "$root/.venv" || {
      echo "hack: $python cannot make a virtual environment; install its venv module (Debian: python3-venv)" >&2
      return 1
    }
    rm -f "$root"/.venv/installed-*
    "$root/.venv/bin/python" -m pip install -qq --disable-pip-version-check --editable "$root[$extras]" || {
      echo "hack: pip could not install agentops[$extras]; its message stands above" >&2
      return 1
    }
    : >"$stamp"
  fi
  export PATH=$root/.venv/bin:$PATH VIRTUAL_ENV=$root/.venv
}

find_python() {
  local candidate
  for candidate in python3.11 python3.12 python3.13 python3 python; do
    if command -v "$candidate" >/dev/null 2>&1 &&
      "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$candidate"
      return 0
    fi
  done
  echo "hack: no Python 3.11 or newer on PATH" >&2
  return 1
}
