# setup-venv.sh PYTHON VENV: makes the virtual environment, with locked dependencies.
set -eu
python=$1
venv=$2
if ! command -v "$python" >/dev/null; then
  echo "error: $python is missing. remedy: install Python 3.11 or later, or pass PYTHON=/path/to/python3" >&2
  exit 2
fi
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
  echo "error: $("$python" --version) is too old. remedy: pass PYTHON=/path/to/python3.11 or later" >&2
  exit 2
fi
if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "installing python3-venv" >&2
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq python3-venv >/dev/null
  else
    echo "error: Python has no venv module. remedy: apt-get install python3-venv" >&2
    exit 2
  fi
fi
echo "installing the Python dependencies" >&2
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
"$venv/bin/pip" install -q --disable-pip-version-check --require-hashes -r requirements/dev.txt
"$venv/bin/pip" install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
