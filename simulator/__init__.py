"""A simulated Binance COIN-M futures exchange: an ASGI app for the demo, the tests and by hand.

The service never imports this package, and this package never imports the service.

    exchange.py     Exchange, the app: routes, the way of one request, what a test may turn
    signature.py    API keys and the checks of a signed request
    limits.py       weight per address and minute, 429, 418 and growing bans
    book.py         an account: balances and positions, and their arithmetic
    statement.py    a book as the bytes of /dapi/v1/account
    market.py       the listed contracts and their moving mark prices
    listing.py      /dapi/v1/exchangeInfo
    wallet.py       /sapi/v1/account/apiRestrictions, what a key may do
    faults.py       everything that goes wrong, by name
    observing.py    recorded calls, the gate that holds answers back, the adjustable clock
    control.py      the JSON control API under /_sim/; operations.py has what it can do
    asgi.py         requests and replies as values, and how they get on the wire
    transport.py    SimulatorTransport: the exchange in process, failing as httpx would over a socket
    server.py       serving(): the exchange on a real socket
"""
