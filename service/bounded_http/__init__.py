"""HTTP to hosts that may send anything: its client, and the client's connections."""
