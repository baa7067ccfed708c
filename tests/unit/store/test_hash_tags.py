"""Every script touches keys of one slot only, whatever the account, the address and the credential."""

import pytest
from redis.crc import key_slot

from service.settings import Exchange, Redis, Settings
from service.store.keys import document_keys, egress_keys

PLACES = ["https://dapi.binance.com", "http://[::1]:8080", "http://127.0.0.1:1"]


@pytest.mark.parametrize("base_url", PLACES)
@pytest.mark.parametrize("prefix", ["coinm", "{coinm}", "a.b"])
def test_an_accounts_keys_share_a_slot_and_so_do_an_addresss(base_url: str, prefix: str) -> None:
    settings = Settings(exchange=Exchange(base_url=base_url), redis=Redis(key_prefix=prefix), accounts={})
    account, egress = document_keys(settings, "main"), egress_keys(settings)
    credentials = ("1" * 16, "2" * 16)
    accounts = [
        account.credentials,
        *(name(each) for each in credentials for name in (account.snapshot, account.lease)),
    ]
    accounts += [*map(account.failures, credentials), *map(account.proof, credentials)]
    addresses = [egress.address_cooldown, egress.probe, *egress.minute(1), *egress.minute(2)]
    addresses += [egress.credential_cooldown(each) for each in credentials]
    for keys in (accounts, addresses):
        assert len({key_slot(key.encode()) for key in keys}) == 1
        assert all(key.startswith(f"{prefix}:") for key in keys)
    assert account.channel.startswith(f"{prefix}:")
