"""/sapi/v1/account/apiRestrictions ("Wallet docs, Get API Key Permission"): what an API key may do.

Of another host at the real exchange, with a limit of its own; the simulator answers it beside /dapi.
"""

import msgspec

RESTRICTIONS_PATH = "/sapi/v1/account/apiRestrictions"
WALLET_WEIGHT_LIMIT = 12_000  # a minute and address, for each endpoint by itself ("Wallet docs, general info")


class Restrictions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """A key's permissions in the documented order; by default one that reads, and from listed addresses alone.

    Set here, they are told and bind nothing: which calls need which permission isn't documented.
    """

    ip_restrict: bool = True
    create_time: int = 1_698_645_219_000
    enable_reading: bool = True
    enable_withdrawals: bool = False
    enable_internal_transfer: bool = False
    enable_margin: bool = False
    enable_futures: bool = False
    permits_universal_transfer: bool = False
    enable_vanilla_options: bool = False
    enable_fix_api_trade: bool = False
    enable_fix_read_only: bool = False
    enable_spot_and_margin_trading: bool = False
    enable_portfolio_margin_trading: bool = False
