"""Static pods that have to end while nobody may bring them back."""

from __future__ import annotations

# The kubelet is stopped while static pods are ended by hand, and started again when their manifests are aside, or those
# that take their place are there: a new one starts what it finds in its directory, and nothing else. Pods go on while
# there is none. Manifests that only vanish are not enough: a kubelet that was started while its API server was away, as
# when its host has booted with a broken etcd, ends no static pod, and starts each again that ends, until it has heard
# what pods the API has; and whether it has, nothing tells from outside.
# Source: kubelet 1.36, `deletePod`: "skipping delete because sources aren't ready yet". Seen: an etcd without a
# manifest that ran on for two minutes.
KUBELET = r"""
halt() { trap awake EXIT; trap 'exit 143' HUP INT TERM; systemctl stop kubelet; }
awake() { systemctl start kubelet; }
end_by_hand() { for process in $(pidof "$2"); do kill "-$1" "$process" 2> /dev/null || true; done; }
"""
