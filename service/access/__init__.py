"""The client behind a request, and what it may see: pure decisions, deny by default, each with its reason."""
