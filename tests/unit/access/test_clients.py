from service.access.clients import Client, Clients
from service.access.grants import ANY_ACCOUNT, Grant
from service.access.tokens import digest

OLD, NEW, OTHER = b"cgw_old", b"cgw_new", b"cgw_other"

RISK = Client(
    "risk",
    (digest(OLD), digest(NEW)),
    {ANY_ACCOUNT: Grant(ANY_ACCOUNT, None), "main": Grant("main", frozenset({"BTC"}))},
)
TREASURY = Client("treasury", (digest(OTHER),), {"hedge": Grant("hedge", frozenset({"ETH"}))}, ("desk/a", "desk/b"))
NOBODY = Client("nobody", (), {})

CLIENTS = Clients([RISK, TREASURY, NOBODY], ["main", "hedge", "spare"])


def test_either_token_of_a_rotation_is_the_client() -> None:
    assert CLIENTS.authenticate(OLD) is RISK
    assert CLIENTS.authenticate(NEW) is RISK
    assert CLIENTS.authenticate(OTHER) is TREASURY


def test_an_unknown_token_is_nobody() -> None:
    for token in (b"", b"cgw_", b"cgw_nobody", OLD + b" ", OLD.upper(), b"\xff"):
        assert CLIENTS.authenticate(token) is None


def test_a_service_account_is_the_client_that_lists_it() -> None:
    assert CLIENTS.of_service_account("desk/a") is CLIENTS.of_service_account("desk/b") is TREASURY
    for name in ("", "desk/", "desk/c", "a", "DESK/A", "treasury"):
        assert CLIENTS.of_service_account(name) is None
    assert CLIENTS.authenticate(b"desk/a") is None


def test_a_digest_is_no_token() -> None:
    assert CLIENTS.authenticate(digest(OLD).encode()) is None


def test_a_digest_that_only_begins_alike_is_not_taken() -> None:
    twin = digest(OLD)[:16] + "0" * 48
    clients = Clients([Client("twin", (twin,), {}), RISK], [])
    assert clients.authenticate(OLD) is RISK
    assert Clients([Client("twin", (twin,), {})], []).authenticate(OLD) is None


def test_an_own_grant_goes_before_the_general_one() -> None:
    assert CLIENTS.grant(RISK, "main") == Grant("main", frozenset({"BTC"}))
    assert CLIENTS.grant(RISK, "spare") == Grant("spare", None)


def test_an_account_that_is_not_there_and_one_not_granted_are_alike() -> None:
    assert CLIENTS.grant(RISK, "missing") is None
    assert CLIENTS.grant(TREASURY, "main") is None
    assert CLIENTS.grant(RISK, ANY_ACCOUNT) is None


def test_what_a_client_may_see_comes_in_the_settings_order() -> None:
    assert [grant.account for grant in CLIENTS.visible(RISK)] == ["main", "hedge", "spare"]
    assert [grant.account for grant in CLIENTS.visible(TREASURY)] == ["hedge"]
    assert CLIENTS.visible(NOBODY) == []


def test_a_client_shows_no_digest() -> None:
    assert repr(RISK) == "<Client risk>"
