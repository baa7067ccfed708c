"""The command line as an operator meets it: exit statuses, one line for an error, never a secret."""

import asyncio
import re
import socket
import ssl
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from service.access import tokens
from simulator.exchange import Exchange
from simulator.faults import Fault
from simulator.server import serving
from simulator.signature import DEMO_API_KEY, DEMO_SECRET_KEY
from simulator.wallet import Restrictions
from tests.process.certificates import write_certificate
from tests.process.conftest import GatewayProcess, Tables, gateway_process, run_command, tables
from tests.support import BTC, TOKENS, bearer, free_port, write_settings


async def test_check_finds_everything_in_order(tmp_path: Path, redis_port: int, exchange_url: str) -> None:
    config = write_settings(tmp_path, **tables(redis_port, exchange_url))

    status, output, errors = await run_command("check", "--config", str(config))

    assert (status, errors) == (0, "")
    assert subjects(output, "ok") == [
        "settings",
        "weight",
        "audit",
        "open files",
        "files",
        "tls",
        "redis",
        "exchange",
        "account main",
    ]
    assert output.endswith("skip  key main                 skipped: no exchange.wallet_url\n")
    assert "20 assets, 30 positions, one-way mode" in output


async def test_check_fails_when_the_exchange_rejects_the_key(
    tmp_path: Path, redis_port: int, exchange_url: str, exchange: Exchange
) -> None:
    config = write_settings(tmp_path, **tables(redis_port, exchange_url))
    exchange.revoke(DEMO_API_KEY)

    status, output, _ = await run_command("check", "--config", str(config))

    assert status == 1
    assert subjects(output, "fail") == ["account main"]
    assert "exchange-rejected-credentials" in output
    assert DEMO_API_KEY not in output


@pytest.mark.parametrize(
    ("restrictions", "expected"),
    [
        (Restrictions(), (0, "ok")),
        (Restrictions(enable_futures=True), (0, "warn")),
        (Restrictions(enable_withdrawals=True), (1, "fail")),
    ],
    ids=["reads", "trades", "withdraws"],
)
async def test_check_fails_for_a_key_that_can_move_money_and_warns_of_one_that_can_trade(
    tmp_path: Path, redis_port: int, exchange: Exchange, restrictions: Restrictions, expected: tuple[int, str]
) -> None:
    exchange.restrict(DEMO_API_KEY, restrictions)
    async with serving(exchange) as url:
        config = write_settings(tmp_path, **with_wallet(tables(redis_port, url), url))
        status, output, errors = await run_command("check", "--config", str(config))

    verdict = next(verdict for verdict in ("ok", "warn", "fail") if "key main" in subjects(output, verdict))
    assert (status, verdict) == expected
    assert not errors
    assert not [secret for secret in (DEMO_API_KEY, DEMO_SECRET_KEY, "signature") if secret in output]


async def test_check_warns_where_the_wallet_is_not_to_be_reached(
    tmp_path: Path, redis_port: int, exchange_url: str
) -> None:
    away = f"http://127.0.0.1:{free_port()}"
    config = write_settings(tmp_path, **with_wallet(tables(redis_port, exchange_url), away))

    status, output, _ = await run_command("check", "--config", str(config))

    assert (status, subjects(output, "warn")) == (0, ["key main"])
    assert "exchange-unavailable: no connection to the exchange" in output


async def test_check_fails_when_redis_and_the_exchange_are_away(tmp_path: Path) -> None:
    config = write_settings(tmp_path, **tables(free_port(), f"http://127.0.0.1:{free_port()}"))

    status, output, errors = await run_command("check", "--config", str(config))

    assert status == 1
    assert subjects(output, "fail") == ["redis", "exchange", "account main"]
    assert "Traceback" not in errors


async def test_check_asks_nothing_while_the_replicas_remember_a_ban(
    tmp_path: Path, redis_port: int, exchange_url: str, exchange: Exchange
) -> None:
    settings = with_wallet(tables(redis_port, exchange_url), exchange_url)
    exchange.faults.add(Fault(name="418", seconds=600))
    async with gateway_process(tmp_path, settings) as gateway, httpx.AsyncClient(headers=bearer()) as caller:
        await caller.get(gateway.url + BTC)
        calls = exchange.calls.count()
        status, output, _ = await run_command("check", "--config", str(gateway.config))

    assert calls == exchange.calls.count()
    assert status == 1
    assert "exchange-banned" in output
    assert subjects(output, "warn") == ["key main"]


async def test_check_warns_when_the_accounts_together_would_outspend_the_share(
    tmp_path: Path, redis_port: int, exchange_url: str
) -> None:
    config = write_settings(tmp_path, **tables(redis_port, exchange_url, fresh_for="100ms"))

    status, output, _ = await run_command("check", "--config", str(config))

    assert status == 0
    assert subjects(output, "warn") == ["weight"]
    assert "4200 of 1920 per minute (account 3000, balance 600, position-risk 600, leverage-brackets 0)" in output


async def test_resume_lets_a_running_gateway_ask_again(gateway: GatewayProcess, exchange: Exchange) -> None:
    exchange.faults.add(Fault(name="418", seconds=600))
    async with httpx.AsyncClient(headers=bearer()) as caller:
        banned = await caller.get(gateway.url + BTC)
        exchange.faults.clear()
        status, output, _ = await run_command("resume", COINM_GATEWAY_CONFIG=str(gateway.config))
        resumed = await caller.get(gateway.url + BTC)

    assert banned.status_code == 503
    assert status == 0
    assert re.search(r"address not-before .* \(exchange-banned\) cleared", output)
    assert resumed.status_code == 200


async def test_resume_says_that_there_was_nothing_to_clear(gateway: GatewayProcess) -> None:
    answer = await run_command("resume", "--config", str(gateway.config), "--account", "main")

    assert answer == (0, "nothing was remembered\n", "")


async def test_resume_without_redis_fails_in_one_line(tmp_path: Path) -> None:
    config = write_settings(tmp_path, **tables(free_port(), "http://127.0.0.1:1"))

    status, _, errors = await run_command("resume", "--config", str(config))

    assert (status, errors) == (1, "coinm-gateway: Redis: no connection; nothing was cleared\n")


async def test_resume_knows_only_the_accounts_of_the_settings(tmp_path: Path) -> None:
    config = write_settings(tmp_path)

    status, _, errors = await run_command("resume", "--config", str(config), "--account", "other")

    assert (status, errors) == (2, "coinm-gateway: --account: expected one of main\n")


async def test_token_prints_a_token_once_and_only_its_digest_as_toml() -> None:
    status, output, _ = await run_command("token", "risk")
    token, table, line = output.splitlines()

    assert status == 0
    assert tokens.well_formed(token)
    assert table == "[clients.risk]"
    assert f'token_sha256 = ["{tokens.digest(token.encode())}"]' == line


@pytest.mark.parametrize(
    ("replaced", "by", "complaint"),
    [
        ("drain", "drian", "gateway.toml: server: unknown key drian: did you mean drain?"),
        ('"2s"', '"2"', "exchange.timeout: expected a duration with a unit"),
        (
            "secrets/secret_key",
            "secrets/none",
            "gateway.toml: accounts.main.secret_key_file: cannot be read: No such file",
        ),
        ("http://127.0.0.1:1", "http://10.0.0.1", "exchange.base_url: expected https"),
    ],
)
async def test_bad_settings_are_one_line_and_exit_status_2(
    tmp_path: Path, replaced: str, by: str, complaint: str
) -> None:
    config = write_settings(tmp_path)
    config.write_text(config.read_text().replace(replaced, by))

    status, output, errors = await run_command("serve", "--config", str(config))

    assert (status, output) == (2, "")
    assert complaint in errors
    assert errors.count("\n") == 1


async def test_a_host_that_is_none_is_not_shown(tmp_path: Path) -> None:
    config = write_settings(tmp_path)

    answer = await run_command("serve", "--config", str(config), "--host", TOKENS["risk"] + "/")

    assert answer == (2, "", "coinm-gateway: --host: expected an IP address or a host's name\n")


async def test_a_port_in_use_is_one_line_and_exit_status_1(gateway: GatewayProcess, tmp_path: Path) -> None:
    """Also where the other is a gateway, whose server would share the port, and no metrics port collides."""
    port = int(gateway.url.rpartition(":")[2])
    other = tmp_path / "other"
    other.mkdir()
    config = write_settings(other, server={"port": port, "metrics_port": 0})

    status, _, errors = await run_command("serve", "--config", str(config))

    assert status == 1
    assert errors.startswith(f"coinm-gateway: server.port: cannot listen on 127.0.0.1:{port}:")
    assert errors.count("\n") == 1


@pytest.mark.parametrize(
    ("server", "status", "complaint"),
    [
        ({"metrics_port": "TAKEN"}, 1, "server.metrics_port: cannot listen on 127.0.0.1:"),
        ({"port": "TAKEN"}, 1, "server.port: cannot listen on 127.0.0.1:"),
        ({"host": "no-such-host.invalid"}, 1, "server.host: expected an address of this machine"),
        (
            {"tls_certificate_file": "none", "tls_key_file": "none"},
            2,
            "gateway.toml: server.tls_key_file: cannot be read: No such file",
        ),
    ],
)
async def test_what_cannot_be_listened_with_is_one_line(
    tmp_path: Path, server: dict[str, object], status: int, complaint: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        server = {key: port if value == "TAKEN" else value for key, value in server.items()}
        config = write_settings(tmp_path, server={"port": free_port(), "metrics_port": 0} | server)
        found, _, errors = await run_command("serve", "--config", str(config))

    assert status == found
    assert complaint in errors
    assert errors.count("\n") == 1


async def test_the_log_says_in_one_line_where_it_listens_and_how_redis_is(
    tmp_path: Path, redis_port: int, exchange_url: str
) -> None:
    settings: Tables = tables(redis_port, exchange_url)
    settings["redis"]["url"] = f"redis://:hunter2hunter2@127.0.0.1:{redis_port}/0"
    async with gateway_process(tmp_path, settings) as gateway, httpx.AsyncClient(headers=bearer()) as caller:
        await caller.get(gateway.url + BTC)
        _, log = await gateway.stop()

    [start] = [line for line in log.splitlines() if '"event":"starting"' in line]
    assert f'"listening":"{gateway.url}","docs":"{gateway.url}/docs","metrics":"{gateway.metrics_url}"' in start
    assert '"redis":"it refuses our password or user, ' in start  # it has none
    secrets = (DEMO_API_KEY, DEMO_SECRET_KEY, "hunter2", TOKENS["risk"])
    assert not [secret for secret in secrets if secret in log]


async def test_a_key_with_a_pass_phrase_is_refused_and_nobody_is_asked_for_it(tmp_path: Path) -> None:
    """With a terminal, on which OpenSSL would ask and wait."""
    certificate, key = write_certificate(tmp_path)
    locked = load_pem_private_key(key.read_bytes(), None).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"canary")
    )
    key.write_bytes(locked)
    config = write_settings(tmp_path, server={"tls_certificate_file": str(certificate), "tls_key_file": str(key)})
    for command in ("serve", "check"):
        status, output, _ = await on_a_terminal(command, "--config", str(config))
        assert "server.tls_key_file: expected a PEM private key without a pass phrase" in output
        assert "pass phrase:" not in output
        assert status == (2 if command == "serve" else 1)


async def on_a_terminal(*arguments: str) -> tuple[int | None, str, str]:
    """What a command does whose controlling terminal nobody types on; both outputs together."""
    program = "import pty, sys; sys.exit(pty.spawn(sys.argv[1:]) >> 8)"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", program, sys.executable, "-m", "service", *arguments),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    async with asyncio.timeout(20):
        output, errors = await process.communicate()
    return process.returncode, output.decode(), errors.decode()


async def test_metrics_are_served_on_their_own_port(gateway: GatewayProcess) -> None:
    async with httpx.AsyncClient(headers=bearer()) as caller:
        await caller.get(gateway.url + BTC)
        metrics = (await caller.get(gateway.metrics_url)).text
        beside = await caller.get(f"{gateway.url}/metrics")

    assert 'coinm_exchange_calls_total{endpoint="account",outcome="ok"} 1.0' in metrics
    assert beside.status_code == 404


async def test_with_a_certificate_it_speaks_tls(tmp_path: Path, redis_port: int, exchange_url: str) -> None:
    certificate, key = write_certificate(tmp_path)
    settings = tables(redis_port, exchange_url)
    settings["server"] |= {"tls_certificate_file": str(certificate), "tls_key_file": str(key)}
    trust = ssl.create_default_context(cafile=str(certificate))
    async with gateway_process(tmp_path, settings, trust) as gateway, httpx.AsyncClient(verify=trust) as caller:
        answer = await caller.get(gateway.url + BTC, headers=bearer())

    assert answer.status_code == 200


def with_wallet(settings: Tables, url: str) -> Tables:
    return settings | {"exchange": settings["exchange"] | {"wallet_url": url}}


def subjects(output: str, verdict: str) -> list[str]:
    """The subjects of `check`'s rows with a verdict, in order."""
    rows = [line for line in output.splitlines() if line.startswith(verdict)]
    return [row[6:30].strip() for row in rows]
