"""ServiceAccounts' tokens, and whose they are: the cluster's API server says so. Alone knows Kubernetes."""
