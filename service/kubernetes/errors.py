"""Why a token can't be verified just now: our trouble or the API server's, never the caller's."""

FAILURES = {
    "unreachable": "no connection",
    "timeout": "no answer in time",
    "unavailable": "it can't review tokens now",
    "invalid": "its answer is no TokenReview",
    "busy": "too many tokens wait for a review",
    "unauthorized": "it doesn't accept our own token: a configuration error",
    "forbidden": "our own ServiceAccount may not create TokenReviews: it needs the ClusterRole system:auth-delegator",
    "untrusted": "its certificate is not of the CA in ca_file: a configuration error",
    "no-token": "our own token can't be read from token_file: a configuration error",
}
"""What can be wrong, in words for an operator."""

MISCONFIGURED = frozenset({"unauthorized", "forbidden", "untrusted", "no-token"})
"""What doesn't pass by itself: people must act."""

RETRY = 1_000
"""Ms after which a caller may try again: the API server is asked anew by every caller, so nothing builds up."""


class NotVerifiedError(Exception):
    """Nobody could say whose a token is; `kind` is one of `FAILURES`."""

    def __init__(self, kind: str) -> None:
        super().__init__(FAILURES[kind])
        self.kind = kind
