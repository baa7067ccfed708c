"""The client on whose behalf the gateway acts, so that request weight can be attributed to it.

A request's task sets it once its client is known. Tasks that it starts copy it with the rest of their context. So a
refresh, its retries and the calls it needs carry the client that caused it, even after that client has its answer.
A caller that joins a refresh under way has caused nothing.
"""

from contextvars import ContextVar

CLIENT: ContextVar[str] = ContextVar("coinm.client", default="")
"""A client's name from the settings, never a text that a caller chose; empty: the gateway acts by itself."""
