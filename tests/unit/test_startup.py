"""The command starts fast because it imports little."""

import subprocess
import sys

import pytest

HEAVY = (
    "kubernetes", "paramiko", "pydantic", "rich", "structlog", "msgspec", "urllib3", "yaml", "tenacity",
    "pyrage", "zstandard", "obstore", "fsspec",
)  # fmt: skip
HOSTS = ["hosts", "check", "--help"]
ETCD = ["etcd", "--help"]
BACKUP = ["etcd", "backup", "--help"]
SHOW = """
import sys
from orchestrator.cli.main import main
try:
    main(sys.argv[2:])
except SystemExit:
    pass
loaded = {name.partition(".")[0] for name in sys.modules}
sys.stderr.write(" ".join(sorted(loaded & set(sys.argv[1].split()))))
"""


@pytest.mark.parametrize(
    "words", [["--help"], ["drain", "--help"], ["status", "--help"], ["--version"], ["runs"], HOSTS, ETCD, BACKUP]
)
def test_help_and_what_needs_no_cluster_import_nothing_heavy(words, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", SHOW, " ".join(HEAVY), *words], capture_output=True, text=True, check=True,
        env={"PATH": "/usr/bin:/bin", "XDG_STATE_HOME": str(tmp_path), "HOME": str(tmp_path)},
    )  # fmt: skip

    assert done.stdout
    assert done.stderr == ""


def test_what_is_imported_is_seen(tmp_path):
    """Else the tests beside this one would prove nothing."""
    done = subprocess.run(
        [sys.executable, "-c", f"import yaml\n{SHOW}", " ".join(HEAVY), "--version"], capture_output=True, text=True,
        check=True, env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
    )  # fmt: skip

    assert done.stderr == "yaml"


def test_completion_of_static_words_imports_nothing_heavy(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", SHOW, " ".join(HEAVY)], capture_output=True, text=True, check=True,
        env={
            "PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "_ORCHESTRATOR_COMPLETE": "complete_bash",
            "COMP_WORDS": "orchestrator dra", "COMP_CWORD": "1",
        },
    )  # fmt: skip

    assert done.stdout.split() == ["drain"]
    assert done.stderr == ""
