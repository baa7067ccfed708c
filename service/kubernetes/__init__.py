"""ServiceAccount identity: the cluster's API server reviews tokens. The only room that knows Kubernetes."""
