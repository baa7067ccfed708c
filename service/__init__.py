"""COIN-M account gateway: one shared snapshot of an account, served to the teams allowed to see it.

The rooms, top to bottom; imports point down only:

    cli, check      the command line
    server          the ASGI server, signals and drain
    app             wires everything, owns the lifespan
    web             the HTTP edge; alone knows Litestar
    cache           keeping a snapshot fresh enough; decides purely, then acts
    store           what replicas share; alone knows Redis
    exchange        signed calls and their weight; alone knows httpx
    access          who is calling and what it may see
    account         the snapshot and how views are cut from it; knows nobody
    telemetry       logs and metrics
    settings, clock values that every room may read
"""

__version__ = "0.1.0"
