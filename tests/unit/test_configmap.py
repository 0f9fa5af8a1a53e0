"""What kubeadm keeps in the cluster, read out of a snapshot."""

import pytest

from orchestrator.backup.configmap import kubeadm_configuration
from tests.fakes.boltfiles import Keys, config_map, snapshot

KUBEADM = b"/registry/configmaps/kube-system/kubeadm-config"


def stored(tmp_path, key, value):
    path = tmp_path / "k.db"
    path.write_bytes(snapshot(Keys().put(key, value).pairs))
    return path


def test_kubeadms_configuration_is_read_out_of_its_object(tmp_path):
    value = config_map(ClusterConfiguration="kind: a\n", Other="b")

    assert kubeadm_configuration(stored(tmp_path, KUBEADM, value)) == "kind: a\n"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (KUBEADM + b"-2", config_map(ClusterConfiguration="a")),
        (KUBEADM, config_map(Other="a")),
        (KUBEADM, b"k8s:enc:aescbc:v1:key1:" + config_map(ClusterConfiguration="a")),
        (KUBEADM, config_map(ClusterConfiguration="a")[:-3]),
        (KUBEADM, b"k8s\x00"),
        (KUBEADM, config_map(ClusterConfiguration="é").replace("é".encode(), b"\xff\xff")),
    ],
    ids=["another", "without it", "encrypted", "cut short", "empty", "no text"],
)
def test_where_there_is_none_that_can_be_read_it_is_empty(tmp_path, key, value):
    assert kubeadm_configuration(stored(tmp_path, key, value)) == ""
