"""Plans, the runner that carries them out, and the record of what it did. Knows nothing of Kubernetes."""
