"""The state that the replicas share, in Redis. The only room that knows redis-py; a failing Redis is "unavailable"."""
