"""Static pods that have to end while nobody may bring them back."""

from __future__ import annotations

# A kubelet that was started while its API server was away does not end static pods whose manifests are gone, and starts
# their containers again when they end, until it has heard what pods the API has. Such a one is stopped, and what has to
# end is ended by hand; it is started again when manifests are in place. Pods go on while there is none. One that has
# heard of them has said so in its journal, and says so again with each pod that changes; where that is not found it is
# stopped, too, which costs a moment.
# A process's name in the kernel has 15 characters. Source: proc(5), `comm`.
# Source: kubelet 1.36, `deletePod`: "skipping delete because sources aren't ready yet"; `syncLoopIteration` logs
# "SyncLoop ADD" source="api". Seen: an etcd without a manifest that ran on for two minutes.
KUBELET = r"""
heard() {
  main=$(systemctl show kubelet --property=MainPID --value 2> /dev/null)
  [ "${main:-0}" != 0 ] || return 1
  journalctl --quiet --output=cat _SYSTEMD_UNIT=kubelet.service "_PID=$main" 2> /dev/null |
    grep -q 'source[=":\\]*api'
}
halted() { ! systemctl is-active --quiet kubelet; }
halt() { heard || halted || systemctl stop kubelet; }
awake() { ! halted || systemctl start kubelet || true; }
end_by_hand() { if halted; then pkill "-$1" -x "$(printf %.15s "$2")" || true; fi; }
"""
