"""COIN-M account gateway: one shared snapshot per account, served to the teams that may read it.

Rooms from top to bottom; a room imports only rooms below it (`tests/unit/test_arrows.py`):

    entry, cli, check, reload   the command line, and following the settings files
    server, ending, process     the ASGI server, signals, drain, limits; metrics_port: /metrics and the probes
    app, wiring, gateway        build every part, own the lifespan
    web                         the HTTP edge; the only room that knows Litestar
    kubernetes                  ServiceAccount identity by TokenReview
    cache                       keeps a snapshot fresh enough: pure decisions, then actions
    store                       what replicas share; the only room that knows Redis
    exchange                    signed calls and their weight; the only room that knows Binance; uses bounded_http
    access                      callers and what they may read: tokens, clients, grants, limits
    account                     the snapshot and its views; imports no other room
    telemetry                   logs, the audit log, metrics
    settings, clock, files …    values and checks that every room may use
"""

__version__ = "0.1.0"
