"""What a client may see of an account. Pure, deny by default; a refusal carries its reason."""

from collections.abc import Mapping

import msgspec

from service.account.rows import margin_asset, pair_of
from service.account.selection import Selection


class Grant(msgspec.Struct, frozen=True):
    """A client's view of one account; `None` means all.

    `sides` hides position rows only: an asset's totals are its own, whichever side earned them.
    """

    account: str
    assets: frozenset[str] | None
    sides: frozenset[str] | None = None

    def refusal(self, selection: Selection, margin_assets: Mapping[str, str] | None) -> str | None:
        """Why something that the selection names may not be seen, or `None`; the parameter is named, not its value.

        Naming what is not granted is refused rather than answered with an empty list, which would read as "flat".
        `margin_assets` is exchangeInfo's map of symbols to their margin asset; `None`: not known yet.
        """
        for asset in selection.assets or ():
            if not self.sees_asset(asset):
                return "parameter asset: not granted on this account"
        for symbol in selection.symbols or ():
            if not self._may_see(symbol, margin_assets):
                return "parameter symbol: not granted on this account"
        for pair in selection.pairs or ():
            # A pair stands for its contracts: those that are listed, else for what its form says.
            contracts = [symbol for symbol in margin_assets or () if pair_of(symbol) == pair] or [f"{pair}_PERP"]
            if not any(self._may_see(symbol, margin_assets) for symbol in contracts):
                return "parameter pair: not granted on this account"
        for side in selection.sides or ():
            if self.sides is not None and side not in self.sides:
                return "parameter positionSide: not granted on this account"
        return None

    def _may_see(self, symbol: str, margin_assets: Mapping[str, str] | None) -> bool:
        """Whether a symbol is granted, or may be for all that is known."""
        margin = margin_asset(symbol, margin_assets or {})
        # Before exchangeInfo is known, a symbol whose form doesn't say its asset is decided later: what is refused now
        # must not be answered then.
        undecided = margin is None and margin_assets is None
        return undecided or self.sees_asset(margin)

    def sees_asset(self, asset: str | None) -> bool:
        return self.assets is None or asset in self.assets

    def narrow(self, selection: Selection) -> Selection:
        """The selection with everything that is not granted left out."""
        return msgspec.structs.replace(selection, visible_assets=self.assets, visible_sides=self.sides)
