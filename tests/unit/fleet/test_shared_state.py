"""What replicas publish, between releases that know different documents."""

import pytest

from service.account.documents import DOCUMENTS
from service.fleet.shared_state import LONGEST_MESSAGE_BYTES, LONGEST_NUMBER, Notification, RefreshRequest

ONE, OTHER = "1" * 16, "2" * 16
NAMES = [document.name for document in DOCUMENTS]


@pytest.mark.parametrize("refresh", [None, RefreshRequest(OTHER, 0), RefreshRequest(OTHER, 3_600_000)])
@pytest.mark.parametrize("document", [*NAMES, "invented-later"])
def test_a_notification_is_read_as_it_was_written(document: str, refresh: RefreshRequest | None) -> None:
    notification = Notification("main", ONE, refresh, document)
    assert Notification.decode(notification.encode().encode()) == notification


@pytest.mark.parametrize("document", NAMES)
def test_a_longest_notification_of_every_document_is_within_the_bound(document: str) -> None:
    longest = Notification("a" * 63, ONE, RefreshRequest(OTHER, 10**LONGEST_NUMBER - 1), document)
    assert len(longest.encode()) <= LONGEST_MESSAGE_BYTES
    assert Notification.decode(longest.encode().encode()) == longest


@pytest.mark.parametrize(
    ("notification", "message"),
    [
        (Notification("main", ONE), f"main {ONE}"),
        (Notification("main", ONE, RefreshRequest(OTHER, 250)), f"main {ONE} {OTHER} 250"),
        (Notification("main", ONE, document="balance"), f"main/balance {ONE}"),
        (Notification("main", ONE, RefreshRequest(OTHER, 250), "balance"), f"main/balance {ONE} {OTHER} 250"),
    ],
)
def test_a_notification_of_the_account_is_one_that_every_release_understands(
    notification: Notification, message: str
) -> None:
    assert notification.encode() == message
    assert Notification.decode(message.encode()) == notification


@pytest.mark.parametrize("name", ["", "Balance", "a" * 33, "balance/x", "balance:x", "../x", "\u00e4"])
def test_what_no_document_can_be_called_is_no_notification(name: str) -> None:
    assert Notification.decode(f"main/{name} {ONE}".encode()) is None
