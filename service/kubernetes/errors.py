"""Why a token can't be verified now: the cause is ours or the API server's, never the caller's."""

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
"""Every kind of failure, with a text for operators."""

MISCONFIGURED = frozenset({"unauthorized", "forbidden", "untrusted", "no-token"})
"""Kinds that don't pass by themselves: an operator must act."""

RETRY = 1_000
"""Milliseconds until a caller should retry. Each caller's retry starts a review of its own, so nothing builds up."""


class NotVerifiedError(Exception):
    """A token could not be verified; `kind` is one of `FAILURES`."""

    def __init__(self, kind: str) -> None:
        super().__init__(FAILURES[kind])
        self.kind = kind
