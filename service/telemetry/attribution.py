"""On whose behalf the gateway acts, so that what it spends can be put to an account.

A request's task says it once it knows its client. The tasks that it starts copy it with the rest of their context,
and so a refresh, its retries and what it needs besides carry the client that caused it, also behind that client's back.
Whoever joins a refresh under way caused nothing.
"""

from contextvars import ContextVar

CLIENT: ContextVar[str] = ContextVar("coinm.client", default="")
"""A client's name as the settings have it, never what a caller chose; empty: the gateway's own doing."""
