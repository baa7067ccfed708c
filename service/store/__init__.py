"""What the replicas share, in Redis. Alone knows redis-py; every failure of Redis ends here as "away"."""
