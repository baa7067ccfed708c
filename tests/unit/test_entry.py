"""What is shown of a fault that nobody foresaw."""

import pytest

from service.entry import show_fault


def test_a_fault_shows_its_kind_and_place_and_no_value(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyError) as caught:
        {}["hunter2hunter2"]  # type: ignore[index]
    show_fault(caught.type, caught.value, caught.tb)
    output, errors = capsys.readouterr()
    assert output == ""
    assert errors.startswith("coinm-gateway: a fault of the gateway: KeyError in ")
    assert "test_entry.py:" in errors
    assert errors.count("\n") == 1
    assert "hunter2" not in errors


def test_a_fault_without_a_place_is_a_line_too(capsys: pytest.CaptureFixture[str]) -> None:
    show_fault(MemoryError, MemoryError("hunter2"), None)
    assert capsys.readouterr().err == "coinm-gateway: a fault of the gateway: MemoryError\n"
