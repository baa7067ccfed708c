from service.access.clients import Clients
from service.access.grants import Grant
from service.access.tokens import digest
from service.settings import Client, ClientGrant

OLD, NEW, OTHER = b"cgw_old", b"cgw_new", b"cgw_other"

SETTINGS = {
    "risk": Client(
        token_sha256=[digest(OLD), digest(NEW)],
        accounts={"*": ClientGrant(assets="all"), "main": ClientGrant(assets=["BTC"], position_sides=["LONG"])},
        requests_per_second=5,
    ),
    "treasury": Client(
        token_sha256=[digest(OTHER)],
        service_accounts=["desk/a", "desk/b"],
        accounts={"missing": ClientGrant(assets="all"), "hedge": ClientGrant(assets=["ETH"])},
    ),
    "nobody": Client(),
}
CLIENTS = Clients(SETTINGS, ["main", "hedge", "spare"])


def named(token: bytes, clients: Clients = CLIENTS) -> str | None:
    client = clients.authenticate(token)
    return client.name if client else None


def test_either_token_of_a_rotation_is_the_client() -> None:
    assert (named(OLD), named(NEW), named(OTHER)) == ("risk", "risk", "treasury")


def test_a_client_has_the_limit_of_its_settings() -> None:
    limits = [client.requests_per_second for token in (OLD, OTHER) if (client := CLIENTS.authenticate(token))]
    assert limits == [5, None]


def test_an_unknown_token_is_nobody() -> None:
    for token in (b"", b"cgw_", b"cgw_nobody", OLD + b" ", OLD.upper(), b"\xff"):
        assert CLIENTS.authenticate(token) is None


def test_a_service_account_is_the_client_that_lists_it() -> None:
    assert CLIENTS.of_service_account("desk/a") is CLIENTS.of_service_account("desk/b") is CLIENTS.authenticate(OTHER)
    for name in ("", "desk/", "desk/c", "a", "DESK/A", "treasury"):
        assert CLIENTS.of_service_account(name) is None
    assert CLIENTS.authenticate(b"desk/a") is None


def test_a_digest_is_no_token() -> None:
    assert CLIENTS.authenticate(digest(OLD).encode()) is None


def test_a_digest_that_only_begins_alike_is_not_taken() -> None:
    twin = Client(token_sha256=[digest(OLD)[:16] + "0" * 48])
    assert named(OLD, Clients({"twin": twin, "risk": SETTINGS["risk"]}, [])) == "risk"
    assert named(OLD, Clients({"twin": twin}, [])) is None


def test_a_grant_of_its_own_is_not_widened_by_the_general_one() -> None:
    grants = client.grants if (client := CLIENTS.authenticate(OLD)) else {}
    assert grants["main"] == Grant("main", frozenset({"BTC"}), frozenset({"LONG"}))
    assert grants["spare"] == Grant("spare", None)


def test_a_client_has_grants_on_accounts_that_exist_alone_in_the_settings_order() -> None:
    found = [list(client.grants) for token in (OLD, OTHER) if (client := CLIENTS.authenticate(token))]
    assert found == [["main", "hedge", "spare"], ["hedge"]]
