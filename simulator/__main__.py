"""`python -m simulator exchange` and `python -m simulator demo`."""

import asyncio
import contextlib
import signal
from pathlib import Path

import click

from simulator.book import MAX_ASSETS, MIN_ASSETS
from simulator.control import controllable
from simulator.exchange import Exchange, Settings
from simulator.server import serving
from simulator.signature import DEMO_API_KEY, DEMO_SECRET_KEY, check_key_name, read_public_key


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """A simulated Binance COIN-M futures exchange. No request leaves this machine."""


def _key_name(_: click.Context, __: click.Parameter, value: str) -> str:
    try:
        return check_key_name(value)
    except ValueError as exc:
        raise click.BadParameter(str(exc)) from exc


def _public_key(_: click.Context, __: click.Parameter, value: Path | None) -> bytes | None:
    if value is None:
        return None
    try:
        pem = value.read_bytes()
        read_public_key(pem)
    except (OSError, ValueError) as exc:
        raise click.BadParameter(f"{value}: {exc}") from exc
    return pem


@main.command("exchange")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8100, show_default=True, type=click.IntRange(0, 65535), help="Port; 0 is any free one.")
@click.option(
    "--mode",
    default="one-way",
    show_default=True,
    type=click.Choice(["one-way", "hedge"]),
    help="The account's position mode: 30 position rows, or 90.",
)
@click.option(
    "--assets",
    default=MIN_ASSETS,
    show_default=True,
    type=click.IntRange(MIN_ASSETS, MAX_ASSETS),
    help="How many asset rows the account has.",
)
@click.option("--api-key", default=DEMO_API_KEY, callback=_key_name, help="64 letters and digits; else a demo key.")
@click.option("--secret-key", default=DEMO_SECRET_KEY, help="Its HMAC secret; else a demo secret.")
@click.option(
    "--public-key",
    type=click.Path(path_type=Path, dir_okay=False),
    callback=_public_key,
    help="PEM file with an RSA or Ed25519 public key, in place of the HMAC secret.",
)
@click.option("--seed", default=1, show_default=True, help="Mark prices are a function of seed and time.")
@click.option(
    "--weight-limit",
    default=2400,
    show_default=True,
    type=click.IntRange(min=1),
    help="Request weight per minute and client address.",
)
def exchange_command(host: str, port: int, **options: object) -> None:
    """Serve the exchange alone until Ctrl-C; /_sim/ on the same port controls it.

    Put the printed API key and secret into the two files that the gateway's settings name as api_key_file
    and secret_key_file, and the printed URL into its base_url.
    """
    hedge = options.pop("mode") == "hedge"
    settings = Settings(hedge=hedge, **options)  # type: ignore[arg-type]  # click has checked each by its option
    try:
        asyncio.run(_serve(settings, host, port))
    except OSError as exc:
        click.echo(f"Can't listen on {host} port {port}: {exc.strerror}. Choose another with --port.", err=True)
        raise SystemExit(2) from exc


async def _serve(settings: Settings, host: str, port: int) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError):  # Windows: Ctrl-C raises KeyboardInterrupt there
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
    exchange = Exchange(settings)
    async with serving(controllable(exchange), host=host, port=port) as url:
        _announce(settings, url)
        await stop.wait()
        exchange.release()  # nobody else will, and the server waits for unfinished answers


def _announce(settings: Settings, url: str) -> None:
    click.echo(f"Simulated COIN-M exchange   {url}")
    click.echo(f"API key                     {settings.api_key}")
    if settings.public_key is None and settings.secret_key == DEMO_SECRET_KEY:
        click.echo(f"secret key                  {settings.secret_key}")
    click.echo(f"Control: curl {url}/_sim/ lists what can be turned; Ctrl-C stops.")


@main.command("demo")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="The gateway's port.")
def demo_command(port: int) -> None:
    """Run the exchange, an embedded Redis and the gateway in one process, and print what to try."""
    # Imported late: only the demo needs the gateway and an embedded Redis.
    from simulator.demo import run  # noqa: PLC0415

    run(port=port)


if __name__ == "__main__":
    main(prog_name="python -m simulator")
