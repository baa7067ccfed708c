"""`/docs` in a browser that finds no other host: it loads, takes a token, and shows what the gateway answers.

The host isn't localhost, where Swagger UI would spare a public validator. The browser's own network log is the proof
that nobody else was asked.
"""

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.async_api import Locator, Page, async_playwright, expect

from tests.process.conftest import STARTUP, GatewayProcess
from tests.programs import require
from tests.support import TOKENS

HOST = "gateway.example"

FLAGS = (
    "--no-sandbox",  # CI runs as root
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    f"--host-resolver-rules=MAP {HOST} 127.0.0.1, MAP * ~NOTFOUND",
)

POSITIONS = "#operations-positions-list_positions"

expect.set_options(timeout=STARTUP * 1000)  # busy cores: its 5 s are for a page that is there already


@pytest.fixture
def chromium() -> str:
    return require("chromium")


class Browsing:
    """A page on the gateway's docs, everything it asked for, and everything it complained of."""

    def __init__(self, page: Page, folder: Path) -> None:
        self.page = page
        self.block = page.locator(POSITIONS)
        self.folder = folder
        self.complaints: list[str] = []
        self.requests: list[str] = []
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("console", lambda message: self.complaints.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))

    async def authorize(self, token: str) -> None:
        await self.page.click("button.authorize")
        await self.page.fill(".modal-ux input", token)
        await self.page.click(".modal-ux button.authorize")
        await self.page.click(".modal-ux .btn-done")

    async def unfold(self) -> None:
        """Open the operation; "Try it out" is on already."""
        await self.block.locator(".opblock-summary-control").click()
        await expect(self.block.locator("button.execute")).to_be_visible()

    async def fill(self, parameter: str, value: str) -> Locator:
        """Add a value to a list filter; its field."""
        row = self.block.locator(f'tr[data-param-name="{parameter}"]')
        field = row.locator("input")
        await row.get_by_role("button", name="Add string item").click()
        await expect(field).to_have_value("BTC")  # the example, which would overwrite what is filled in before it
        await field.fill(value)
        await field.blur()
        await expect(field).to_have_value(value)
        return field

    async def execute(self) -> Locator:
        """Send the request; the part of the page with the answer."""
        await self.block.locator("button.execute").click()
        answer = self.block.locator(".live-responses-table .response").first
        await expect(answer).to_be_visible()
        return answer

    async def show(self, name: str) -> None:
        """A picture for people who look at what a failed test saw."""
        await self.page.screenshot(path=self.folder / f"{name}.png", full_page=True)


@asynccontextmanager
async def browsing(gateway: GatewayProcess, chromium: str, folder: Path, client: str) -> AsyncIterator[Browsing]:
    """The page, with a client's token, where the operation that lists positions is about to be tried."""
    port = urlsplit(gateway.url).port
    flags = [*FLAGS, f"--log-net-log={folder / 'net.json'}"]
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium, args=flags)
        page = await browser.new_page(viewport={"width": 1200, "height": 1400})
        seen = Browsing(page, folder)
        await page.goto(f"http://{HOST}:{port}/docs")
        await seen.authorize(TOKENS[client])
        await seen.unfold()
        yield seen
        await browser.close()


def asked(log: Path) -> Iterator[str]:
    """Every URL in the browser's network log that the page asked for.

    Chromium's own services (accounts, updates, autofill) have "not an origin"; the page's address itself, too.
    """
    read: dict[str, Any] = json.loads(log.read_text())
    start = read["constants"]["logEventTypes"]["URL_REQUEST_START_JOB"]
    for event in read["events"]:
        if event["type"] == start and event.get("params", {}).get("initiator", "not an origin") != "not an origin":
            yield event["params"]["url"]


async def test_a_filtered_list_is_tried_out_and_no_other_host_is_asked(
    tmp_path: Path, gateway: GatewayProcess, chromium: str
) -> None:
    async with browsing(gateway, chromium, tmp_path, "risk") as seen:
        await seen.fill("asset", "BTC")
        await seen.block.locator('tr[data-param-name="open"] select').select_option("true")
        answer = await seen.execute()
        await seen.show("filtered")

        await expect(answer.locator(".response-col_status")).to_have_text("200")
        await expect(answer).to_contain_text('"symbol": "BTCUSD_PERP"')
        for header in ("gateway-snapshot-age: ", "gateway-position-mode: one-way", "cache-status: coinm-gateway; "):
            await expect(answer).to_contain_text(header)
        assert seen.complaints == []

    logged = [urlsplit(url) for url in asked(tmp_path / "net.json")]
    assert {url.hostname for url in [*logged, *map(urlsplit, seen.requests)]} == {HOST}
    assert {url.path for url in logged} == {
        "/docs/favicon-32x32.png",
        "/docs/openapi.json",
        "/docs/start.js",
        "/docs/swagger-ui-bundle.js",
        "/docs/swagger-ui.css",
        "/v1/accounts/main/positions",
    }
    assert {url.query for url in logged} == {"", "asset=BTC&open=true"}


async def test_a_filter_that_is_not_granted_shows_the_problem(
    tmp_path: Path, gateway: GatewayProcess, chromium: str
) -> None:
    async with browsing(gateway, chromium, tmp_path, "treasury") as seen:
        await seen.fill("asset", "DOGE")
        answer = await seen.execute()
        await seen.show("refused")

        await expect(answer.locator(".response-col_status")).to_contain_text("403")
        await expect(answer).to_contain_text("urn:coinm-gateway:problem:forbidden")
        await expect(answer).to_contain_text("content-type: application/problem+json")


async def test_a_malformed_directive_shows_the_problem(tmp_path: Path, gateway: GatewayProcess, chromium: str) -> None:
    async with browsing(gateway, chromium, tmp_path, "risk") as seen:
        await seen.block.locator('tr[data-param-name="Cache-Control"] input').fill("max-age=soon")
        answer = await seen.execute()

        await expect(answer.locator(".response-col_status")).to_contain_text("400")
        await expect(answer).to_contain_text("header Cache-Control: max-age expects whole seconds")


async def test_a_misspelt_filter_is_not_sent_and_the_field_says_why(
    tmp_path: Path, gateway: GatewayProcess, chromium: str
) -> None:
    async with browsing(gateway, chromium, tmp_path, "risk") as seen:
        field = await seen.fill("asset", "BTC/USD")
        await seen.block.locator("button.execute").click()

        await expect(field).to_have_class("invalid")
        await expect(field).to_have_attribute("title", r"Value must follow pattern ^[^\x00-\x1f\x7f-\x9f/,]+$")

    assert not [url for url in seen.requests if "/v1/" in url]
