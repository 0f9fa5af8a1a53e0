"""A real control plane as processes on loopback, with pretended kubelets: thousands of nodes, no containers."""
