"""What a host of a cluster in memory answers to the questions of `cluster.queries`, in their frame."""

import json

from orchestrator.cluster import queries
from orchestrator.cluster.hostfacts import STATIC
from orchestrator.cluster.kubeadm import BACKUPS
from tests.fakes.site_machines import MANIFESTS


def answer(machine, query, words, since):
    """The text; `since` is the moment from which on a question that takes time looks."""
    answers = {
        queries.LOOK: lambda: _look(machine),
        queries.EXAMINE: lambda: _look(machine) + _section("disk", "/", text="overlay 100000000000 1 90000000000 1% /"),
        queries.ETCD: lambda: _etcd(machine),
        queries.API: lambda: _api(machine, float(words[0]), since),
        queries.WATCHES: lambda: _section("watches", text=str(machine.followers())),
        queries.KEPT: lambda: _kept(machine),
        queries.OFFERS: lambda: _offers(machine, words[0]),
        queries.PREFLIGHT: lambda: _section("preflight", "0", text="") + _section("end", text="done"),
        queries.EDITED: lambda: _section("diff", text=""),
    }
    return answers[query]()


def _section(*head, text):
    return "".join([f"@@{' '.join(head)}\n", *(f" {line}\n" for line in text.splitlines())])


def _look(machine):
    running = f"/usr/bin/kubelet{' (deleted)' if machine.replaced else ''}"
    installed = [
        f"{name}\t{p.version}-1.1\t{'hold' if p.held else 'install'} {p.state}" for name, p in machine.packages.items()
    ]
    parts = [
        _section("boot", text=f"boot-{machine.boots}"),
        _section("left", text="\n".join(sorted(machine.left))),
        _section("clock", text=f"{machine.site.wall():.3f}"),
        _section("os", text="Debian GNU/Linux 12 (bookworm)\n/usr/bin/apt-get"),
        _section("server", text=f"https://{machine.address if machine.asks_itself else 'api.example.org'}:6443"),
        _section("kubeadm", text=f"v{machine.packages['kubeadm'].version}"),
        _section("kubelet", text=f"Kubernetes v{machine.packages['kubelet'].version}"),
        _section("running", running, text=f"Kubernetes v{machine.running}"),
        _section("installed", text="\n".join(installed)),
        _section("unfinished", text=machine.unfinished),
    ]
    lists = [path for path in machine.files if path.endswith((".list", ".sources"))]
    parts += [_section("source", path, text=machine.files[path].decode()) for path in sorted(lists)]
    parts += [_section("manifest", f"{MANIFESTS}/{name}.yaml", text=_manifest(machine, name)) for name in STATIC
              if name in machine.manifests]  # fmt: skip
    parts += [_section("component", name, "7", text=_says(name, machine.components[name])) for name in STATIC
              if machine.up(name)]  # fmt: skip
    return "".join(parts)


def _kept(machine):
    parts = []
    for when, versions, data in machine.kept:
        directory = f"{BACKUPS}/kubeadm-backup-manifests-{when}"
        for name, version in versions.items():
            tag = version if name == "etcd" else f"v{version}"
            parts.append(_section("manifest", f"{directory}/{name}.yaml", directory, text=f"image: {name}:{tag}"))
        copy = f"{BACKUPS}/kubeadm-backup-etcd-{when}"
        parts += [_section("data", f"{copy}/etcd", copy, text="")] if data else []
    return "".join([*parts, _section("end", text="")])


def _manifest(machine, name):
    tag = machine.manifests[name] if name == "etcd" else f"v{machine.manifests[name]}"
    flag = f"\n    - --advertise-address={machine.address}" if name == "kube-apiserver" else ""
    return f"kind: Pod\nspec:\n  containers:\n  - command:\n    - {name}{flag}\n    image: registry.k8s.io/{name}:{tag}"


def _says(name, version):
    return f"etcd Version: {version.partition('-')[0]}" if name == "etcd" else f"Kubernetes v{version}"


def _api(machine, lasts_s, since):
    """The whole time is looked through at once: threads that share a fake clock see it jump."""
    end = since + lasts_s
    broken = machine.breaks("kube-apiserver", since, end)
    machine.site.pass_time(max(0.0, (end if broken is None else broken) - machine.site.wall()))
    if broken is not None:
        return _section("broken", "readyz", text="The connection to the server was refused")
    return _section("version", text=json.dumps({"gitVersion": f"v{machine.server}"}, indent=2))


def _etcd(machine):
    if not machine.up("etcd"):
        return ""
    planes = machine.site.planes()
    numbers = {m.name: n for n, m in enumerate(planes, start=1)}
    urls = {m.name: f"https://{m.name}:2379" for m in planes}
    members = [{"ID": numbers[m.name], "name": m.name, "peerURLs": [], "clientURLs": [urls[m.name]]} for m in planes]
    statuses = [
        {
            "Endpoint": urls[m.name],
            "Status": {
                "header": {"member_id": numbers[m.name]},
                "version": m.components["etcd"].partition("-")[0],
                "leader": numbers[machine.site.leader],
                "raftIndex": 100,
                "raftAppliedIndex": 100,
            },
        }
        for m in planes
        if m.up("etcd")
    ]
    health = [{"endpoint": urls[m.name], "health": m.up("etcd")} for m in planes]
    said = _section("members", text=json.dumps({"members": members}))
    said += _section("status", text=json.dumps(statuses)) + _section("health", text=json.dumps(health))
    return said + _section("alarms", text="" if machine.faults.get("etcd") == "cut short" else "{}")


def _offers(machine, minor):
    versions = machine.offers.get(minor, ())
    if not versions:
        return _section("update", "100", text="E: The repository does not have a Release file.") + _section(
            "madison", text=""
        )
    lines = [f"kubeadm | {v}-1.1 | http://198.18.0.1 Packages" for v in versions]
    return _section("update", "0", text="") + _section("madison", text="\n".join(lines))
