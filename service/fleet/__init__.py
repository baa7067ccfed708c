"""What the replicas agree on, and the rules over it: pure values and decisions, no I/O."""
