"""Any error → the answer in the form of the requested path. The app's only exception handler."""

import re
from typing import Any

from litestar import Response

from service.web import binance_errors, problems
from service.web.context import context_of
from service.web.problems import AnyRequest, InvalidParameterError, Refusal, Reportable

UNSTORED = {"cache-control": "no-store"}
"""Header of every error."""
_BELOW_BINANCE = re.compile(r"/+binance/")  # the framework ignores repeated slashes, and so does the form of errors


def answer(request: AnyRequest, exc: Exception) -> Response[bytes]:
    """Answer our own errors, the framework's, and bugs."""
    # A malformed request goes to a path that doesn't exist (see `edge`); its own error replaces that 404.
    malformed = context_of(request.scope).malformed
    error = problems.to_problem(exc) if malformed is None else InvalidParameterError(malformed)
    status, media_type, headers, body = refused(request.scope, error, problems.headers(request, error))
    return Response(body, status_code=status, media_type=media_type, headers=headers)


def refused(scope: Any, error: Reportable, headers: dict[str, str]) -> Refusal:
    """Encode an error for the path, and note its problem in the request's context."""
    context = context_of(scope)
    context.problem, headers = error.problem, UNSTORED | headers
    if _BELOW_BINANCE.match(scope["path"]):
        return binance_errors.refusal(error, headers)
    return problems.refusal(context.request_id, error, headers)
