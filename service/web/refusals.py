"""The one exception handler: any error → what the caller is told of it, in the form of the path it asked on."""

import re

from litestar import Response

from service.web import binance_errors, problems
from service.web.problems import AnyRequest, InvalidParameterError
from service.web.record import record_of

_BELOW_BINANCE = re.compile(r"/+binance/")


def answer(request: AnyRequest, exc: Exception) -> Response[bytes]:
    """For ours, the framework's, and what nobody foresaw."""
    record = record_of(request.scope)
    told = problems.told(exc) if record.malformed is None else InvalidParameterError(record.malformed)
    record.problem = told.problem
    headers = {"cache-control": "no-store"} | problems.headers(request, told)
    if _BELOW_BINANCE.match(request.scope["path"]):
        return binance_errors.refusal(told, headers)
    return problems.refusal(request, told, headers)
