"""The canary: no secret in anything that leaves a gateway, whatever a test made it do."""

from collections.abc import Mapping


def leaks(place: str, text: str, secrets: Mapping[str, str]) -> list[str]:
    """Which secrets a text gives away; by name, so that a failure's report is no leak itself."""
    return [f"{name} in {place}" for name, secret in secrets.items() if secret in text]
