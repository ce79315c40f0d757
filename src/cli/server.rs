//! The running service, asked over its HTTP API.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;

use super::{FAILED, INVALID, fail};

/// Which service to ask; the admin key comes from `DOORWARD_ADMIN_KEY`, never from the command line,
/// where other users of the machine could read it.
#[derive(Args)]
pub(super) struct ServerArgs {
    /// Where the HTTP API is: `listen.admin` if that is set, else `listen.http`.
    #[arg(long, value_name = "URL", env = "DOORWARD_SERVER", default_value = "http://127.0.0.1:9192")]
    server: url::Url,
}

/// An answer of the API.
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) body: Value,
}

/// Why there is nothing to show.
pub(super) enum Failure {
    /// What was asked for is not valid.
    Usage(String),
    Failed(anyhow::Error),
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed(error)
    }
}

impl Failure {
    pub(super) fn report(&self) -> ExitCode {
        match self {
            Self::Usage(message) => {
                eprintln!("doorward: {message}");
                ExitCode::from(INVALID)
            }
            Self::Failed(error) => fail(error),
        }
    }
}

/// The environment variable that holds the admin key.
const ADMIN_KEY: &str = "DOORWARD_ADMIN_KEY";
/// Beyond what the server may wait for, for the way there and back.
const GRACE: Duration = Duration::from_secs(10);

impl ServerArgs {
    pub(super) fn get(&self, path: &str) -> Result<Reply, Failure> {
        self.ask(path, None, Duration::ZERO)
    }

    /// `patience`: how long the server was told to wait itself.
    pub(super) fn post(&self, path: &str, body: &Value, patience: Duration) -> Result<Reply, Failure> {
        self.ask(path, Some(body), patience)
    }

    fn ask(&self, path: &str, body: Option<&Value>, patience: Duration) -> Result<Reply, Failure> {
        let key = std::env::var(ADMIN_KEY).ok().filter(|key| !key.is_empty()).map(SecretString::from);
        let key = key.ok_or_else(|| Failure::Usage(format!("set {ADMIN_KEY} to an admin key")))?;
        let url = self.server.join(path).map_err(|error| Failure::Usage(format!("--server: {error}")))?;
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")?;
        let reply = runtime.block_on(async {
            let client = reqwest::Client::builder()
                .timeout(patience + GRACE)
                // The key is for this server alone.
                .redirect(reqwest::redirect::Policy::none())
                .no_proxy()
                .build()
                .context("build the HTTP client")?;
            let request = match body {
                Some(body) => client.post(url.clone()).json(body),
                None => client.get(url.clone()),
            };
            let request = request.bearer_auth(key.expose_secret());
            let response = request.send().await.with_context(|| format!("ask {}", self.server))?;
            let status = response.status().as_u16();
            let body = response.bytes().await.context("read the answer")?;
            let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
            anyhow::Ok(Reply { status, body })
        })?;
        reply.succeeded()
    }
}

impl Reply {
    /// Problems become failures, in the words of the server.
    fn succeeded(self) -> Result<Self, Failure> {
        if (200..300).contains(&self.status) && self.body.is_object() {
            return Ok(self);
        }
        let text = |name: &str| self.body[name].as_str().unwrap_or_default();
        let place = if text("pointer").is_empty() { String::new() } else { format!("{}: ", text("pointer")) };
        let words = match text("title") {
            "" => "no answer of Doorward's HTTP API".to_owned(),
            title => format!("{title}: {place}{}", text("detail")),
        };
        let reason = if text("reason").is_empty() { String::new() } else { format!(" ({})", text("reason")) };
        let message = format!("{words}{reason} [{}]", self.status);
        Err(match self.status {
            400 | 422 => Failure::Usage(message),
            _ => Failure::Failed(anyhow::Error::msg(message)),
        })
    }
}

/// Standard output with an answer as it came, and success.
pub(super) fn print_json(body: &Value) -> ExitCode {
    println!("{body:#}");
    ExitCode::SUCCESS
}

/// Stored, but not all that was asked for was reached.
pub(super) fn unconfirmed(message: &str) -> ExitCode {
    eprintln!("doorward: {message}");
    ExitCode::from(FAILED)
}
