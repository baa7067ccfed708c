"""The document is complete and holds together; that it is true is proven on every answer of the app tests."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from service.account.documents import ACCOUNT, DOCUMENTS
from service.settings import MAX_NAME
from service.web import caching, dropin, parameters, reads
from service.web.accounts import ACCOUNTS
from service.web.docs import document_bytes
from service.web.openapi import document
from simulator.documents import balances, leverage_brackets, position_risk
from simulator.exchange import MAIN, Exchange
from simulator.statement import statement
from tests.app.contract import DOCUMENT, FILE, PROBLEM, PROBLEMS, resolved, violations

Json = Any

OPERATIONS = {each["get"]["operationId"]: each["get"] for each in DOCUMENT["paths"].values()}
READS = {handler.operation_id: handler.opt[reads.READS] for handler in ACCOUNTS if reads.READS in handler.opt}
DROP_IN = [name for name in OPERATIONS if name.startswith("binance_")]
SCHEMAS = DOCUMENT["components"]["schemas"]


def taken(operation: str, place: str) -> dict[str, Json]:
    """An operation's parameters of one place, by name."""
    given = [resolved(each) for each in OPERATIONS[operation].get("parameters", [])]
    return {each["name"]: each for each in given if each["in"] == place}


def answers(operation: str) -> dict[str, Json]:
    return {status: resolved(told) for status, told in OPERATIONS[operation]["responses"].items()}


def described(schema: Json, place: str) -> Iterator[tuple[str, str]]:
    """Every schema and field below, with its description."""
    target = resolved(schema)
    yield place, schema.get("description", target.get("description", ""))
    for name, field in target.get("properties", {}).items():
        yield from described(field, f"{place}.{name}")


def test_both_forms_are_the_committed_document() -> None:
    made, committed = document_bytes(json=False).decode().splitlines(), FILE.read_text("utf-8").splitlines()
    assert made == committed, "openapi/openapi.yaml has drifted from the code: make openapi"
    assert json.loads(document_bytes(json=True)) == DOCUMENT


def test_the_yaml_has_neither_anchors_nor_aliases() -> None:
    events = yaml.parse(FILE.read_text())
    assert not any(getattr(event, "anchor", None) for event in events)


def test_the_operations_have_names_that_make_good_methods() -> None:
    assert list(OPERATIONS) == [
        *("list_accounts", "get_account", "list_assets", "get_asset", "list_balance", "get_balance"),
        *("list_leverage_brackets", "list_symbol_leverage_brackets"),
        *("list_position_risk", "list_symbol_position_risk", "get_position_risk"),
        *("list_positions", "list_symbol_positions", "get_position"),
        *("get_health", "get_readiness", "get_status"),
        *("binance_account", "binance_balance", "binance_exchange_info", "binance_ping", "binance_position_risk"),
        *("binance_time", "binance_leverage_brackets"),
    ]


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_operation_says_what_it_is(operation: str) -> None:
    said = OPERATIONS[operation]
    assert 10 < len(said["summary"]) < 80
    assert said["description"]
    assert said["tags"][0] in [tag["name"] for tag in DOCUMENT["tags"]]
    assert all(answer["description"] for answer in answers(operation).values())


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_example_is_what_its_schema_says(operation: str) -> None:
    given = [*taken(operation, "path").values(), *taken(operation, "query").values()]
    contents = [
        *given,
        *(each for answer in answers(operation).values() for each in answer.get("content", {}).values()),
    ]
    for content in contents:
        schema = content["schema"]
        named = [each["value"] for each in content.get("examples", {}).values()]
        values = [*named, *schema.get("examples", []), *([content["example"]] if "example" in content else [])]
        assert values, content
        assert [violations(schema, value) for value in values] == [[]] * len(values)


def test_no_operation_has_examples_that_are_not_shown() -> None:
    literal = Path(document.__file__).with_name("document.yaml").read_text("utf-8")
    assert set(yaml.load(literal, yaml.BaseLoader)["examples"]) == set(OPERATIONS)


def test_every_header_has_an_example_of_its_schema() -> None:
    for name, header in DOCUMENT["components"]["headers"].items():
        assert violations(header["schema"], header["example"]) == [], name


def test_reads_show_both_modes_a_filter_and_emptiness() -> None:
    for operation in ("get_account", "list_positions"):
        examples = answers(operation)["200"]["content"]["application/json"]["examples"]
        assert list(examples) == ["one-way", "hedge", "filtered", "empty"]
        sides = {
            name: {
                row["positionSide"] for row in each["value"]["positions" if operation == "get_account" else slice(None)]
            }
            for name, each in examples.items()
        }
        assert sides == {"one-way": {"BOTH"}, "hedge": {"BOTH", "LONG", "SHORT"}, "filtered": {"LONG"}, "empty": set()}


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_field_is_described(name: str) -> None:
    assert [place for place, words in described(SCHEMAS[name], name) if not words] == []


def test_every_field_that_the_exchange_sends_is_described() -> None:
    exchange = Exchange()
    exchange.add_demo_book("hedged", hedge=True)
    state = exchange.book(MAIN), exchange.market, exchange.now_ms()
    account = msgspec.json.decode(statement(*state))
    assert set(account) == set(SCHEMAS["Account"]["properties"]) == ACCOUNT.documented | {"assets", "positions"}
    assert {key for row in account["assets"] for key in row} == set(SCHEMAS["Asset"]["properties"])
    assert {key for row in account["positions"] for key in row} <= set(SCHEMAS["Position"]["properties"])
    for name, body in {"Balance": balances(*state), "PositionRisk": position_risk(*state, lambda _: True)}.items():
        assert {key for row in msgspec.json.decode(body) for key in row} == set(SCHEMAS[name]["properties"])
    brackets = msgspec.json.decode(leverage_brackets(state[0], lambda _: True))
    assert {key for row in brackets for key in row} <= set(SCHEMAS["LeverageBracket"]["properties"])
    kinds = [kind.name for each in DOCUMENTS for kind in each.kinds]
    assert all(SCHEMAS[name]["additionalProperties"] is True for name in ("Account", *kinds))


@pytest.mark.parametrize("operation", READS)
def test_the_filters_are_those_that_the_edge_takes_with_its_bounds(operation: str) -> None:
    query = taken(operation, "query")
    assert set(query) == set(parameters.FILTERS[READS[operation]])
    for name, each in query.items():
        if name in parameters.FLAGS:
            assert each["schema"]["type"] == "boolean"
            continue
        assert each["schema"]["maxItems"] == parameters.MAX_VALUES
        item = resolved(each["schema"]["items"])
        if "pattern" in item:
            assert (item["minLength"], item["maxLength"]) == (1, MAX_NAME)
        else:
            assert "|".join(item["enum"]) == parameters.LISTS[name].form.pattern.pattern


@given(st.text(min_size=1, max_size=70) | st.text(st.characters(max_codepoint=0xA5, categories=["Cc", "Lu", "Po"])))
def test_a_name_of_the_document_is_one_that_the_edge_takes(name: str) -> None:
    schema = taken("list_assets", "query")["asset"]["schema"]["items"]
    fits = violations(schema, name) == []
    assert fits == (parameters.LISTS["asset"].form.pattern.fullmatch(name) is not None)


@pytest.mark.parametrize("operation", READS)
def test_every_read_takes_the_headers_of_freshness(operation: str) -> None:
    headers = taken(operation, "header")
    assert list(headers) == ["Cache-Control", "If-None-Match"]
    assert all(each["schema"]["maxLength"] == caching.LIMITS[name] for name, each in headers.items())
    for each in headers["Cache-Control"]["examples"].values():
        caching.request_directives([each["value"]], [])  # none is refused


def test_every_problem_is_told_by_some_operation_but_the_one_that_no_operation_has() -> None:
    told = {
        (name, int(status))
        for operation in OPERATIONS
        for status, answer in answers(operation).items()
        for name in answer.get("content", {}).get(PROBLEM, {}).get("examples", {})
    }
    assert told == set(PROBLEMS.items()) - {("method-not-allowed", 405)}
    assert "whatever would write is a 405" in DOCUMENT["info"]["description"]


@pytest.mark.parametrize("operation", READS)
def test_a_read_can_end_in_everything_but_success_only(operation: str) -> None:
    statuses = ["200", "304", "400", "401", "403", "404", "429", "500", "502", "503", "504"]
    assert list(answers(operation)) == statuses


@pytest.mark.parametrize("operation", OPERATIONS)
def test_who_is_calling_is_asked_everywhere_but_of_probes_and_of_what_the_exchange_tells_anybody(
    operation: str,
) -> None:
    security = OPERATIONS[operation].get("security", DOCUMENT["security"])
    told: Json = {each: [] for each in ("get_health", "get_readiness", *DROP_IN)}
    told |= {f"binance_{each.name.replace('-', '_')}": [{"key": []}] for each in DOCUMENTS}
    assert security == told.get(operation, [{"token": []}])
    assert ("401" in OPERATIONS[operation]["responses"]) is bool(security)


@pytest.mark.parametrize("operation", DROP_IN)
def test_drop_in_paths_take_what_clients_add_to_a_query_and_answer_errors_in_binances_form(operation: str) -> None:
    own = {"binance_position_risk": {"marginAsset", "pair"}, "binance_leverage_brackets": {"symbol"}}
    assert set(taken(operation, "query")) == set(dropin.IGNORED) | own.get(operation, set())
    refused = {status: told for status, told in answers(operation).items() if status >= "400"}
    assert {"400", "404"} <= set(refused) <= {"400", "401", "404", "429", "503"}
    for told in refused.values():
        assert told["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/BinanceError"}
