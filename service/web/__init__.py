"""The HTTP edge. Alone knows Litestar: requests come in as values, decisions go out as answers."""
