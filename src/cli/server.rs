//! A client of the running service's HTTP API.

use std::io::{IsTerminal, Write as _};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;

use super::{FAILED, INVALID, complain, fail};
use crate::config;

/// The service to connect to; the admin key comes from `DOORWARD_ADMIN_KEY`, never from the command
/// line, where other users of the machine could read it.
#[derive(Args, Clone)]
pub(super) struct ServerArgs {
    /// The URL of the HTTP API: `listen.admin` if that is set, else `listen.http`.
    #[arg(
        long,
        value_name = "URL",
        env = "DOORWARD_SERVER",
        hide_env_values = true,
        default_value = "http://127.0.0.1:9192"
    )]
    server: String,
    #[command(flatten)]
    tls: TlsArgs,
}

/// TLS settings for the service beyond the certificates that the system trusts.
#[derive(Args, Clone)]
pub(super) struct TlsArgs {
    /// The CA that signed the service's certificate, PEM; by default the CAs of the system.
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// The client certificate to send (`listen.tls.client_ca_file`), PEM.
    #[arg(long, value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,
    /// The private key of the certificate, PEM.
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
}

impl TlsArgs {
    pub(super) fn names_authority(&self) -> bool {
        self.ca.is_some()
    }

    /// An HTTP client with these settings.
    pub(super) fn client(&self, timeout: Duration) -> anyhow::Result<reqwest::ClientBuilder> {
        let read = |file: &Path| std::fs::read(file).with_context(|| format!("read {}", file.display()));
        // Without proxies and redirects: the credentials are for this server alone.
        let alone = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none());
        let client = alone.timeout(timeout);
        let client = match &self.ca {
            Some(file) => client.tls_certs_only(
                reqwest::Certificate::from_pem_bundle(&read(file)?)
                    .with_context(|| format!("--ca {}", file.display()))?,
            ),
            None => client,
        };
        Ok(match self.cert.as_ref().zip(self.key.as_ref()) {
            Some((certificate, key)) => {
                let pem = [read(certificate)?, read(key)?].join(&b'\n');
                client.identity(reqwest::Identity::from_pem(&pem).context("--cert and --key")?)
            }
            None => client,
        })
    }
}

/// An answer of the API.
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) body: Value,
}

/// The reason for a missing result.
pub(super) enum Failure {
    /// The arguments are not valid.
    Usage(String),
    Failed(anyhow::Error),
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed(error)
    }
}

impl Failure {
    /// With the server at which it happened.
    pub(super) fn at(self, server: &str) -> Self {
        match self {
            Self::Usage(message) => Self::Usage(format!("{server}: {message}")),
            Self::Failed(error) => Self::Failed(error.context(server.to_owned())),
        }
    }

    pub(super) fn report(&self) -> ExitCode {
        match self {
            Self::Usage(message) => {
                complain(format_args!("doorward: {message}"));
                ExitCode::from(INVALID)
            }
            Self::Failed(error) => fail(error),
        }
    }
}

/// The environment variable that holds the admin key.
const ADMIN_KEY: &str = "DOORWARD_ADMIN_KEY";
/// Added to the server's own wait, for the network.
const GRACE: Duration = Duration::from_secs(10);

impl ServerArgs {
    /// Another service, with the same settings.
    pub(super) fn at(&self, server: &str) -> Self {
        Self { server: server.to_owned(), tls: self.tls.clone() }
    }

    /// Its address as requests use it, in whatever spelling.
    pub(super) fn place(&self) -> String {
        let place = |url: url::Url| format!("{:?} {:?}", url.host_str(), url.port_or_known_default());
        url::Url::parse(&self.server).map_or_else(|_| self.server.clone(), place)
    }

    /// Its address without a password.
    pub(super) fn shown(&self) -> String {
        config::shown_url(&self.server).unwrap_or_else(|| "the server".to_owned())
    }

    pub(super) fn get(&self, path: &str) -> Result<Reply, Failure> {
        self.request(&reqwest::Method::GET, path, None, None)
    }

    pub(super) fn delete(&self, path: &str) -> Result<Reply, Failure> {
        self.request(&reqwest::Method::DELETE, path, None, Some(Duration::from_secs(30)))
    }

    /// `patience`: the requested wait of the server; a terminal shows its progress.
    pub(super) fn post(&self, path: &str, body: &Value, patience: Option<Duration>) -> Result<Reply, Failure> {
        self.request(&reqwest::Method::POST, path, Some(body), patience)
    }

    fn request(
        &self,
        method: &reqwest::Method,
        path: &str,
        body: Option<&Value>,
        patience: Option<Duration>,
    ) -> Result<Reply, Failure> {
        let key = admin_key()?;
        // The error does not show a URL that cannot be used, because it may contain a password.
        let server = url::Url::parse(&self.server).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
        let url = server
            .and_then(|server| server.join(path).ok())
            .ok_or_else(|| Failure::Usage("--server: must be a URL such as `http://127.0.0.1:9192`".to_owned()))?;
        let shown = self.shown();
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")?;
        let reply = runtime.block_on(async {
            let client =
                self.tls.client(patience.unwrap_or_default() + GRACE)?.build().context("build the HTTP client")?;
            let request = client.request(method.clone(), url.clone());
            let request = body.into_iter().fold(request, reqwest::RequestBuilder::json);
            let request = request.bearer_auth(key.expose_secret());
            let response = match patience.filter(|_| body.is_some()) {
                Some(patience) if std::io::stderr().is_terminal() => while_waiting(request.send(), patience).await,
                _ => request.send().await,
            };
            let response = response.map_err(reqwest::Error::without_url).with_context(|| format!("request {shown}"))?;
            let status = response.status().as_u16();
            let body = response.bytes().await.context("read the response")?;
            let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
            anyhow::Ok(Reply { status, body })
        })?;
        reply.succeeded()
    }
}

/// Shows the elapsed time on one line of the terminal, and removes the line at the end.
async fn while_waiting<T>(work: impl Future<Output = T>, patience: Duration) -> T {
    const EVERY: Duration = Duration::from_millis(100);
    let (began, mut work) = (Instant::now(), pin!(work));
    loop {
        if let Ok(done) = tokio::time::timeout(EVERY, &mut work).await {
            let _ = write!(std::io::stderr(), "\r\x1b[K"); // The line is only for display.
            return done;
        }
        let (so_far, most) = (began.elapsed().as_secs_f64(), patience.as_secs_f64());
        let _ =
            write!(std::io::stderr(), "\rwaiting until every instance refuses: {so_far:.1} s of at most {most:.0} s");
    }
}

/// The admin key of the environment, without the newline that files end with.
fn admin_key() -> Result<SecretString, Failure> {
    let key = std::env::var(ADMIN_KEY).unwrap_or_default();
    match key.trim_end_matches(['\r', '\n']) {
        "" => Err(Failure::Usage(format!("set {ADMIN_KEY} to an admin key"))),
        key if key.bytes().all(|byte| byte.is_ascii_graphic()) => Ok(key.into()),
        _ => Err(Failure::Usage(format!("{ADMIN_KEY} must be an admin key: printable ASCII without spaces"))),
    }
}

impl Reply {
    /// Converts a problem of the server to a failure, with the server's text.
    fn succeeded(self) -> Result<Self, Failure> {
        if (200..300).contains(&self.status) && self.body.is_object() {
            return Ok(self);
        }
        let text = |name: &str| self.body[name].as_str().unwrap_or_default();
        let place = if text("pointer").is_empty() { String::new() } else { format!("{}: ", text("pointer")) };
        let title = match text("title") {
            "" => "the response is not from Doorward's HTTP API".to_owned(),
            title => format!("{title}: {place}{}", text("detail")),
        };
        let reason = if text("reason").is_empty() { String::new() } else { format!(" ({})", text("reason")) };
        let message = format!("{title}{reason} [{}]", self.status);
        Err(match self.status {
            400 | 422 => Failure::Usage(message),
            _ => Failure::Failed(anyhow::Error::msg(message)),
        })
    }
}

/// Stored, but not confirmed as requested.
pub(super) fn unconfirmed(message: &str) -> ExitCode {
    complain(format_args!("doorward: {message}"));
    ExitCode::from(FAILED)
}
