"""Any error → what the caller is told of it, in the form of the path it asked on: the one exception handler's work."""

import re
from typing import Any

from litestar import Response

from service.web import binance_errors, problems
from service.web.context import context_of
from service.web.problems import AnyRequest, InvalidParameterError, Refusal, Reportable

UNSTORED = {"cache-control": "no-store"}
"""What every error says to caches."""
_BELOW_BINANCE = re.compile(r"/+binance/")


def answer(request: AnyRequest, exc: Exception) -> Response[bytes]:
    """For ours, the framework's, and what nobody foresaw."""
    malformed = context_of(request.scope).malformed
    told = problems.told(exc) if malformed is None else InvalidParameterError(malformed)
    status, media_type, headers, body = refused(request.scope, told, problems.headers(request, told))
    return Response(body, status_code=status, media_type=media_type, headers=headers)


def refused(scope: Any, told: Reportable, headers: dict[str, str]) -> Refusal:
    """An error as it is sent; noted in the request's record."""
    record = context_of(scope)
    record.problem, headers = told.problem, UNSTORED | headers
    if _BELOW_BINANCE.match(scope["path"]):
        return binance_errors.refusal(told, headers)
    return problems.refusal(record.request_id, told, headers)
