//! `doorward healthcheck`: an exec probe for images without a shell.

use std::net::IpAddr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Args;

use super::server::TlsArgs;
use super::{ConfigArgs, fail, load};

/// Request /readyz of the running service; succeed if it is ready.
///
/// Without --ca any certificate of the service is accepted; a service that requires client certificates needs
/// --cert and --key.
#[derive(Args)]
#[command(after_help = "Example:\n  doorward healthcheck --config /etc/doorward/doorward.yaml --fresh\n\n\
    Exit codes: 0 ready, 1 not ready or not reachable, 2 wrong usage or invalid configuration.")]
pub(super) struct HealthcheckArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Also fail while the view of the revocations is older than `max_staleness`.
    #[arg(long)]
    fresh: bool,
    #[command(flatten)]
    tls: TlsArgs,
}

pub(super) fn run(args: &HealthcheckArgs) -> ExitCode {
    let config = match load(&args.config) {
        Ok(loaded) => loaded.config,
        Err(code) => return code,
    };
    match check(config.listen.http, config.listen.tls.is_some(), args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

fn check(address: Option<std::net::SocketAddr>, tls: bool, args: &HealthcheckArgs) -> anyhow::Result<()> {
    let mut address = address.context("listen.http is off: there is no endpoint to check")?;
    if address.ip().is_unspecified() {
        let loopback: IpAddr =
            if address.is_ipv4() { [127, 0, 0, 1].into() } else { std::net::Ipv6Addr::LOCALHOST.into() };
        address.set_ip(loopback);
    }
    let scheme = if tls { "https" } else { "http" };
    let url = format!("{scheme}://{address}/readyz{}", if args.fresh { "?fresh" } else { "" });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")?;
    runtime.block_on(async {
        // The certificate has the service's public names, and the probe connects to a local address: the name is
        // not checked.
        let any = !args.tls.names_authority();
        let client = args.tls.client(Duration::from_secs(2))?.tls_danger_accept_invalid_certs(any);
        let client = client.build().context("build the HTTP client")?;
        let response = client.get(&url).send().await.with_context(|| format!("request {url}"))?;
        let ready = response.status() == reqwest::StatusCode::OK;
        let body = response.text().await.unwrap_or_default();
        anyhow::ensure!(ready, "not ready: {}", body.trim());
        Ok(())
    })
}
