"""What a host of a cluster in memory answers to the questions of `cluster.queries`, in their frame."""

import hashlib
import json

from orchestrator.cluster import queries
from orchestrator.cluster.hostfacts import STATIC
from orchestrator.cluster.kubeadm import BACKUPS
from orchestrator.cluster.packages import KUBERNETES
from tests.fakes.site_machines import MANIFESTS, snapshot_of

#: Of the cluster.
ID = 0x1BB1B1D9C4E2E6D0


def answer(machine, query, words, since):
    """The text; `since` is the moment from which on a question that takes time looks."""
    answers = {
        queries.LOOK: lambda: _look(machine),
        queries.EXAMINE: lambda: _look(machine) + _section("disk", "/", text="overlay 100000000000 1 90000000000 1% /"),
        queries.CLOCK: lambda: _section("clock", text=f"{machine.site.wall() + machine.ahead_s:.3f}"),
        queries.ETCD: lambda: _etcd(machine),
        queries.ETCD_ELSEWHERE: lambda: _etcd_elsewhere(machine),
        queries.ETCD_HOST: lambda: _etcd_host(machine),
        queries.ETCD_HASH: lambda: _etcd_hash(machine, int(words[0])),
        queries.API: lambda: _api(machine, float(words[0]), since),
        queries.ENDPOINT: lambda: _endpoint(machine),
        queries.STATIC_PODS: lambda: _static_pods(machine),
        queries.WATCHES: lambda: _section("watches", text=str(machine.followers())),
        queries.REQUESTED: lambda: _section("requested", text="\n".join(machine.requested)),
        queries.KEPT: lambda: _kept(machine),
        queries.OFFERS: lambda: _offers(machine, words[0]),
        queries.PREFLIGHT: lambda: _section("preflight", "0", text="") + _section("end", text="done"),
        queries.EDITED: lambda: _section("diff", "0", text="") + _section("why", text=""),
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
    running = [e for e in machine.errands.values() if e.state == "running"]
    parts += [_section("work", "kubeadm", "77", text="") for e in running if "kubeadm" in e.argv]
    return "".join([*parts, _section("end", text="")])


def _manifest(machine, name):
    tag = machine.manifests[name] if name == "etcd" else f"v{machine.manifests[name]}"
    flags = {
        "kube-apiserver": (f"--advertise-address={machine.address}", *machine.server_flags),
        "kube-controller-manager": (f"--cluster-name={machine.site.cluster_name}",),
    }.get(name, ())
    command = "".join(f"    - {word}\n" for word in (name, *flags))
    return f"kind: Pod\nspec:\n  containers:\n  - command:\n{command}    image: registry.k8s.io/{name}:{tag}"


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


def _endpoint(machine):
    if not machine.site.broke("endpoint"):
        return ""
    return _section("broken", "https://api.example.org:6443", text="Unable to connect to the server: EOF")


def _static_pods(machine):
    """A manifest's hash is its version here."""
    wanted = "\n".join(f"{name}-{version}" for name, version in machine.manifests.items())
    stale, late = machine.faults.get("static pods", ()), machine.faults.get("mirrors", ())
    mirrors = "\n".join(f"{n}-{v}" for n, v in machine.manifests.items() if n not in late)
    pods = [
        _section("pod", name, text=f"{name}-{'stale' if name in stale else version}")
        for name, version in machine.components.items()
        if machine.up(name)
    ]
    return "".join([_section("wanted", text=wanted), _section("mirror", text=mirrors), *pods])


# ---- etcd -------------------------------------------------------------------------------------------------------


def _number(machine):
    """The id of its member."""
    return [m.name for m in machine.site.planes()].index(machine.name) + 1


def _client(machine):
    return f"https://{machine.name}:2379"


def _peer(machine):
    return f"https://{machine.address}:2380"


def _status(machine, endpoint):
    versions = [each.components["etcd"] for each in machine.site.planes() if each.up("etcd")]
    told = {
        "header": {"cluster_id": ID, "member_id": _number(machine), "revision": machine.site.revision, "raft_term": 3},
        "version": machine.components["etcd"].partition("-")[0],
        "storageVersion": f"{min(versions).rpartition('.')[0]}.0",
        "dbSize": machine.db_size_bytes or len(snapshot_of(machine.name, machine.site.revision)),
        "dbSizeInUse": machine.db_size_bytes,
        "leader": _number(machine.site.machines[machine.site.leader]),
        "raftIndex": 100,
        "raftAppliedIndex": 100,
    }
    return {"Endpoint": endpoint, "Status": told | ({"isLearner": True} if _learner(machine) else {})}


def _learner(machine):
    return machine.faults.get("etcd") == "learner"


def _health(machine, endpoint):
    ill = machine.faults.get("etcd") == "unhealthy" or not machine.up("etcd")
    raised = "".join({1: "NOSPACE ", 2: "CORRUPT "}[each["alarm"]] for each in machine.site.alarms)
    # Every member tells of every alarm. Source: seen on etcd 3.6.
    why = {"error": f"Active Alarm(s): {raised}"} if raised and not ill else {}
    return {"endpoint": endpoint, "health": not ill and not raised, "took": "7.902542ms", **why}


def _etcd(machine):
    stacked = _section("stacked", text="") if "etcd" in machine.manifests else ""
    if not machine.up("etcd") or machine.faults.get("etcd") == "mute":
        return stacked
    planes = machine.site.planes()
    members = [
        {"ID": _number(m), "name": m.name, "peerURLs": [_peer(m)], "clientURLs": [_client(m)]}
        | ({"isLearner": True} if _learner(m) else {})
        for m in planes
    ]
    statuses = [_status(m, _client(m)) for m in planes if m.up("etcd")]
    health = [_health(m, _client(m)) for m in planes]
    said = stacked + _section("members", text=json.dumps({"members": members}))
    said += _section("status", text=json.dumps(statuses)) + _section("health", text=json.dumps(health))
    cut_short, alarms = machine.faults.get("etcd") == "cut short", json.dumps({"alarms": machine.site.alarms})
    return said + _section("alarms", text="" if cut_short else alarms)


def _etcd_elsewhere(machine):
    """One member for each URL; the first leads."""
    site = machine.site
    if machine.name not in site.clients:
        return ""
    urls = site.external.split(",")
    members = [
        {"ID": n, "name": f"e{n}", "peerURLs": [f"{url}0"], "clientURLs": [url]} for n, url in enumerate(urls, 1)
    ]
    one = {"version": "3.5.26", "dbSize": 20480, "leader": 1, "raftIndex": 9, "raftAppliedIndex": 9}
    statuses = [
        {"Endpoint": url, "Status": one | {"header": {"cluster_id": ID, "member_id": n, "revision": site.revision}}}
        for n, url in enumerate(urls, 1)
    ]
    ill = machine.faults.get("etcd") == "unhealthy"
    health = [{"endpoint": url, "health": not ill} for url in urls]
    said = _section("members", text=json.dumps({"members": members})) + _section("status", text=json.dumps(statuses))
    return (
        said
        + _section("health", text=json.dumps(health))
        + _section("alarms", text=json.dumps({"alarms": site.alarms}))
    )


def _etcd_manifest(machine):
    """As kubeadm writes it when a member joins: with all that there were then."""
    planes = machine.site.planes()
    there = planes[: planes.index(machine) + 1]
    flags = {
        "initial-advertise-peer-urls": _peer(machine),
        "initial-cluster": ",".join(f"{m.name}={_peer(m)}" for m in there),
        "name": machine.name,
    }
    lines = "".join(f"    - --{name}={value}\n" for name, value in flags.items())
    return _manifest(machine, "etcd").replace("    - etcd\n", f"    - etcd\n{lines}")


def _etcd_host(machine):
    """As captured ones are."""
    site, local = machine.site, "https://127.0.0.1:2379"
    manifest = "etcd" in machine.manifests
    found = _section("manifest", f"{MANIFESTS}/etcd.yaml", text=_etcd_manifest(machine)) if manifest else ""
    if "kube-apiserver" in machine.manifests:
        image = f"registry.k8s.io/kube-apiserver:v{machine.manifests['kube-apiserver']}"
        found += _section("apiserver", text=image)
    found += _section("servers", text=(site.external or local) if machine.plane else "")
    authority = f"{machine.authority or site.authority}  /etc/kubernetes/pki/ca.crt"
    found += _section("authority", text=authority if machine.plane else "")
    if machine.up("etcd"):
        flags = {
            "name": machine.name,
            "data-dir": "/var/lib/etcd",
            "wal-dir": "",
            "listen-client-urls": f"{local},{_client(machine)}",
            "advertise-client-urls": _client(machine),
            "initial-advertise-peer-urls": _peer(machine),
            "listen-metrics-urls": "http://127.0.0.1:2381",
        }
        found += _section("process", "548", text="\n".join(f"{name}={value}" for name, value in flags.items()))
        found += _section("cgroup", text="0::/kubelet.slice/kubelet-kubepods.slice/cri-containerd-1.scope")
        found += _section("version", text=_says("etcd", machine.components["etcd"]))
        for name in ("etcdctl", "etcdutl"):
            found += _section("tool", name, f"/proc/548/root/usr/local/bin/{name}", text="")
        found += _section("status", text=json.dumps([_status(machine, local)]))
        found += _section("health", text=json.dumps([_health(machine, local)]))
        found += _section("metrics", text="")
    if manifest:
        disk = f"/dev/vda 270553174016 53954486272 {machine.free_bytes} 56% /var"
        found += _section("data", "/var/lib/etcd", text=f"0 0 700 ?\nno\n{disk}\n129916928\nmember")
    return found + _section("end", text="")


def _etcd_hash(machine, revision):
    if not machine.up("etcd"):
        return _section("end", text="")
    fault = machine.faults.get("etcd")
    digest = hashlib.sha256(f"{revision} {fault == 'differs'}".encode()).digest()
    at = machine.faults.get("hash", revision)
    told = {"hash": int.from_bytes(digest[:4], "big"), "hash_revision": at, "compact_revision": 1}
    answer = [{"Endpoint": "https://127.0.0.1:2379", "HashKV": told}]
    # A learner does not serve it.
    said = "" if fault in ("mute", "learner") or at is None else json.dumps(answer)
    return _section("hash", text=said) + _section("end", text="")


def _offers(machine, minor):
    versions = machine.offers.get(minor, ())
    if not versions:
        return _section("update", "100", text="E: The repository does not have a Release file.") + _section(
            "madison", text=""
        )
    lines = [
        f"{name} | {v}-1.1 | http://198.18.0.1 Packages"
        for name in KUBERNETES
        for v in versions
        if name not in machine.lacks
    ]
    return _section("update", "0", text="") + _section("madison", text="\n".join(lines))
