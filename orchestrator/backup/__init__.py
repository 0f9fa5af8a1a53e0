"""Snapshots of etcd as files: their format, proof, encryption, destinations, records and retention."""
