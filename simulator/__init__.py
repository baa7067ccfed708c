"""A simulated Binance COIN-M futures exchange: ASGI apps for the demo, the tests and by hand.

The service never imports this package; of this package only the demo imports the service. From the top down, a
module imports only modules below it:

    __main__.py          `python -m simulator`: the exchange alone, or the demo
    demo.py              the exchange, an embedded Redis and the gateway in one process
    server.py            serving(): an app on a real socket
    transport.py         SimulatorTransport: an app in process, failing as httpx would over a socket
    control.py           the JSON control API under /_sim/, in front of an exchange
    operations.py        what the control API can do
    exchange.py          Exchange, the app: routes, the way of one request, what a test may turn
    documents.py         a book as the bytes of its other documents: balance, position risk, leverage brackets
    statement.py         a book as the bytes of /dapi/v1/account
    book.py              an account: balances and positions, and their arithmetic
    listing.py           /dapi/v1/exchangeInfo
    market.py            the listed contracts and their moving mark prices
    faults.py            everything that goes wrong, by name
    limits.py            weight per address and minute, 429, 418 and growing bans
    signature.py         API keys and the checks of a signed request
    wallet.py            /sapi/v1/account/apiRestrictions, what a key may do
    cluster.py           Cluster, another app: a Kubernetes API server that reviews tokens
    service_accounts.py  ServiceAccounts, and their tokens
    observing.py         recorded calls, the gate that holds answers back, the adjustable clock
    asgi.py              requests and replies as values, and how they get on the wire
"""
