"""`/docs`: the page, its files, the document, the guide; all from this process, asking nobody else."""

import re

import pytest
import yaml
from litestar.routes import HTTPRoute

from service.web import docs
from service.web.openapi.operation import OPERATION
from tests.app.contract import DOCUMENT, FILE
from tests.app.harness import Replica, Stage, problem

GUIDES = FILE.parents[1] / "docs"

TYPES = {
    "/docs": "text/html; charset=utf-8",
    "/docs/start.js": "text/javascript; charset=utf-8",
    "/docs/swagger-ui-bundle.js": "text/javascript; charset=utf-8",
    "/docs/swagger-ui.css": "text/css; charset=utf-8",
    "/docs/favicon-32x32.png": "image/png",
    "/docs/openapi.json": "application/json",
    "/docs/openapi.yaml": "application/yaml",
    "/docs/callers.md": "text/plain; charset=utf-8",
    "/docs/clients.md": "text/plain; charset=utf-8",
}


@pytest.mark.parametrize(("path", "media_type"), TYPES.items())
async def test_everything_is_served_without_a_token_under_a_strict_policy(
    gateway: Replica, path: str, media_type: str
) -> None:
    answer = await gateway.get(f"{path}?ignored=1", client=None)
    assert (answer.status_code, answer.headers["content-type"]) == (200, media_type)
    assert answer.content
    assert answer.headers["content-security-policy"] == docs.POLICY
    assert answer.headers["x-content-type-options"] == "nosniff"
    again = await gateway.get(path, client=None, if_none_match=answer.headers["etag"])
    assert (again.status_code, again.content) == (304, b"")
    head = await gateway.ask("HEAD", path, client=None)
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", str(len(answer.content)))


def test_the_policy_lets_a_page_ask_nobody_but_us_and_run_nothing_inline() -> None:
    policy = {name: value for name, _, value in (each.partition(" ") for each in docs.POLICY.split("; "))}
    assert policy["default-src"] == policy["frame-ancestors"] == "'none'"
    assert policy["script-src"] == policy["connect-src"] == "'self'"
    assert "unsafe" not in docs.POLICY
    assert "http" not in docs.POLICY


async def test_the_document_is_the_committed_one_in_both_forms(gateway: Replica) -> None:
    assert (await gateway.get("/docs/openapi.yaml")).content == FILE.read_bytes()
    assert (await gateway.get("/docs/openapi.json")).json() == DOCUMENT == yaml.safe_load(FILE.read_bytes())


@pytest.mark.parametrize("guide", ["callers.md", "clients.md"])
async def test_the_guides_are_the_committed_ones_and_the_document_links_to_them(gateway: Replica, guide: str) -> None:
    assert (await gateway.get(f"/docs/{guide}")).content == (GUIDES / guide).read_bytes()
    assert f"(/docs/{guide})" in FILE.read_text()


async def test_the_page_asks_for_nothing_that_is_not_here(gateway: Replica) -> None:
    page = (await gateway.get("/docs")).text
    start = (await gateway.get("/docs/start.js")).text
    asked = re.findall(r'(?:href|src)="([^"]*)"', page) + re.findall(r'url: "([^"]*)"', start)
    assert len(asked) == 5
    assert set(asked) < set(TYPES)


def test_every_handler_but_those_of_the_docs_is_in_the_document(stage: Stage) -> None:
    handlers = [
        handler
        for route in stage.app().litestar.routes
        if isinstance(route, HTTPRoute)
        for handler in route.route_handlers
        if handler.fn.__module__.startswith("service.") and handler.fn.__module__ != docs.__name__
    ]
    assert [handler.fn.__qualname__ for handler in handlers if OPERATION not in handler.opt] == []
    documented = {path["get"]["operationId"] for path in docs.openapi()["paths"].values()}
    assert {handler.operation_id for handler in handlers} == documented


async def test_the_ui_is_one_that_reads_openapi_3_1(gateway: Replica) -> None:
    bundle = (await gateway.get("/docs/swagger-ui-bundle.js")).text
    versions = re.findall(r'PACKAGE_VERSION:"(\d+)\.(\d+)\.\d+"', bundle)
    assert [(int(major), int(minor)) >= (5, 24) for major, minor in versions] == [True]


@pytest.mark.parametrize("name", ["swagger-ui-bundle.js.map", "index.html", "..%2f__init__.py", "%00", "callers.md%00"])
async def test_no_other_file_of_the_package_is_served(gateway: Replica, name: str) -> None:
    answer = await gateway.get(f"/docs/{name}")
    assert (answer.status_code, problem(answer)) == (404, "not-found")
