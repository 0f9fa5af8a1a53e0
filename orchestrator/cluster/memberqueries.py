"""What a control plane is asked while its member of etcd is replaced; see `cluster.queries`. Pure."""

from __future__ import annotations

from orchestrator.cluster.frame import Query
from orchestrator.cluster.restorequeries import RESTORE

_MEMBER = (
    RESTORE.script
    + r"""
[ ! -d "$data" ] || head there
for file in "$pods/etcd.yaml" "$aside/etcd.yaml"; do
  if [ -f "$file" ]; then head etcd "$file" $(stat -c '%a %U:%G' "$file"); body < "$file"; fi
done
for file in $(sed -n -E 's/^ *- .?--(peer-)?(cert-file|key-file|trusted-ca-file)=([^" ]*).*/\3/p' \
    "$pods/etcd.yaml" "$aside/etcd.yaml" 2> /dev/null) \
  $(sed -n -E 's/^ *- .?--etcd-(cafile|certfile|keyfile)=([^" ]*).*/\2/p' \
    "$pods/kube-apiserver.yaml" "$aside/kube-apiserver.yaml" 2> /dev/null); do
  [ -s "$file" ] || head lacks "$file"
done
head whole
"""
)

#: As `RESTORE`; whether the data directory is there, the manifest of etcd wherever it is, and which of its certificates
#: and keys are not there. Takes the plan's name and the data directory.
MEMBER_HOST = Query("member", _MEMBER, 30.0)
