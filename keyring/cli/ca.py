"""`gridhe-keyring ca`."""

import time
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

import click

from gridhe.base.clock import check_clock
from gridhe.base.commands import CommonOptions, common_options
from gridhe.base.output import echo
from gridhe.errors import ConfigError
from gridhe.keyring.cli.shared import home_option, open_home, passphrase_option

__all__ = ["ca"]


@click.command()
@common_options
@home_option
@passphrase_option
@click.option(
    "--host",
    "hosts",
    multiple=True,
    metavar="NAME",
    help="A host name or address of the broker; repeatable. Default: the host of broker.url.",
)
@click.option(
    "--renew-ca",
    is_flag=True,
    help="First renew the CA for ten years. Every client then needs the new ca.crt.",
)
@click.option("--clients", is_flag=True, help="Also make a certificate for every enrolled user.")
@click.option(
    "--client",
    "users",
    multiple=True,
    metavar="USER",
    help="Make only this broker user's certificate; repeatable.",
)
def ca(
    common: CommonOptions,
    home: Path,
    passphrase_file: Path | None,
    hosts: tuple[str, ...],
    renew_ca: bool,
    clients: bool,
    users: tuple[str, ...],
) -> None:
    """Make a private CA (once) and the broker's certificate; with --clients or --client also the clients'.

    A certificate is valid for two years, the CA for ten, and no certificate is valid longer than the CA: run
    this again before they end. The common name of a client's certificate is its broker user: the meter's
    name, aggregator-ID, authority, operator or fleet. With broker.client_certificates a client cannot connect
    without it.

    \b
    Examples:
      gridhe-keyring ca --home authority --host broker.example --host 10.0.0.5
      gridhe-keyring ca --home authority --clients --set broker.url=mqtts://broker.example:8883
      gridhe-keyring ca --home authority --client anna
    """
    from gridhe.broker.client.url import BrokerUrl
    from gridhe.keyring.home.ca import CertificateAuthority
    from gridhe.wire.signing import authority_id

    settings = common.load()
    if users and (clients or hosts or renew_ca):
        raise ConfigError(
            "--client makes only the certificates of the named users; remove --host, --clients and --renew-ca"
        )
    with ExitStack() as stack:
        authority = open_home(stack, home, passphrase_file)
        stack.enter_context(authority.changing())
        enrolled = authority.broker_users()
        unknown = sorted(set(users) - set(enrolled))
        if unknown:
            raise ConfigError(f"{unknown[0]!r} is not a broker user; enrol it first")
        issuer = CertificateAuthority(
            home,
            authority.vault.secrets.broker_secret,
            authority=authority_id(authority.verify_key),
            now=lambda: datetime.fromtimestamp(check_clock(time.time()), UTC),
        )
        if renew_ca:
            issuer.renew()
        echo(f"CA (broker.ca_file of every client): {issuer.cert_file}, until {issuer.until:%Y-%m-%d}")
        if issuer.ends_soon:
            echo(
                "warning: the CA ends soon, and no certificate is valid longer: run this with --renew-ca",
                err=True,
            )
        if not users:
            names = hosts or (BrokerUrl.parse(settings.broker.url).host,)
            server = issuer.issue_server(names, authority.paths.broker / "tls")
            echo(f"broker {', '.join(names)}: {server.cert_file}, until {server.until:%Y-%m-%d}")
        wanted = enrolled if clients else list(users)
        issued = issuer.issue_clients(wanted, authority.paths.credentials)
        for each in issued[:3]:
            echo(f"client {each.name}: {each.cert_file}, {each.key_file.name}, until {each.until:%Y-%m-%d}")
        if len(issued) > 3:
            echo(f"and {len(issued) - 3} more in {authority.paths.credentials}")
        authority.write_broker_files(settings.broker)
        echo(f"user operator reads release/#, status/#, plan/#: {authority.paths.operator_password}")
