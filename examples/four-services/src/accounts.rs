//! Accounts: sign-in, the lifetime of tokens, and sign-out.
//!
//! ```text
//! http       the routes; each request from top to bottom
//! passwords  Argon2id, a few at a time, and not as often as somebody likes
//! store      users, families of refresh tokens: SQLite or PostgreSQL
//! tokens     access tokens (JWT) and refresh tokens (random)
//! keys       what signs them, and its rotation
//! error      what can fail, and its answers
//! events     telling Doorward, each event in another of its ways
//! introspection  being asked about a token instead (RFC 7662)
//! page       the files of the page
//! stage      the demo's levers: what breaks, for the page to show
//! ```

mod error;
mod events;
mod http;
mod introspection;
mod keys;
mod page;
mod passwords;
mod stage;
mod store;
mod tokens;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tracing::{info, warn};

use self::events::Doorward;
use self::keys::SigningKeys;
use self::passwords::Passwords;
use self::store::{Store, User};
use self::tokens::Minter;
use crate::{clock, server};

/// Runs Accounts: login, refresh tokens, sign-out, and the events for Doorward.
#[derive(clap::Args)]
pub struct Args {
    /// Where it listens; port 0: one that is free. Only Envoy may reach it: it believes the identity headers.
    #[arg(long, default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// `sqlite:FILE`, created if it is missing, or `postgres://USER:PASSWORD@HOST/DATABASE`.
    #[arg(long, env = "ACCOUNTS_DATABASE", hide_env_values = true, default_value = "sqlite:accounts.db")]
    database: String,
    /// The `iss` of its tokens, and of its security events.
    #[arg(long, default_value = "https://accounts.example")]
    issuer: String,
    /// The `aud` of its tokens.
    #[arg(long, default_value = "shop")]
    audience: String,
    /// How long one key signs. The next one is published for as long before that.
    #[arg(long, default_value = "1h", value_parser = key_lifetime)]
    key_lifetime: Duration,
    #[command(flatten)]
    doorward: DoorwardArgs,
    /// The client that may ask `/oauth2/introspect` about tokens, and the file with its secret. Without it
    /// nobody may.
    #[arg(long, value_name = "ID", default_value = "doorward")]
    introspection_client: String,
    #[arg(long, value_name = "FILE")]
    introspection_secret_file: Option<PathBuf>,
    /// The demo's file with what else runs: the page may break it then.
    #[arg(long, value_name = "FILE")]
    stage: Option<PathBuf>,
}

/// The ways to report sign-outs to Doorward; without one its tokens are valid until they expire.
#[derive(clap::Args)]
pub struct DoorwardArgs {
    /// Doorward's HTTP listener, as `http://127.0.0.1:9192`.
    #[arg(long = "doorward", value_name = "URL")]
    url: Option<reqwest::Url>,
    /// The name of this issuer in Doorward's configuration (`issuers[].name`).
    #[arg(long = "doorward-issuer", value_name = "NAME", default_value = "main")]
    issuer_name: String,
    /// The file with a key that may `revoke` (`admin.keys`).
    #[arg(long, value_name = "FILE")]
    admin_key_file: Option<PathBuf>,
    /// The key itself.
    #[arg(long, env = "DOORWARD_ADMIN_KEY", hide_env_values = true, conflicts_with = "admin_key_file")]
    admin_key: Option<String>,
    /// Doorward's Redis, `redis://…`: password changes are written there. Without it they go over HTTP.
    #[arg(long, env = "DOORWARD_REDIS", hide_env_values = true, value_name = "URL")]
    redis: Option<String>,
    /// Its `revocation.redis.key_prefix`.
    #[arg(long, default_value = "doorward:")]
    redis_prefix: String,
    /// The issuer's `max_lifetime` and `leeway` in Doorward's configuration, added up: how long a revocation is kept.
    #[arg(long, default_value = "24h30s", value_parser = humantime::parse_duration)]
    retention: Duration,
    /// The `aud` of security events (`signals.transmitters[].audience`).
    #[arg(long, default_value = "doorward")]
    transmitter_audience: String,
    /// The file with the credential of a pushed event (`push.token_file`), if Doorward requires one.
    #[arg(long, value_name = "FILE")]
    transmitter_token_file: Option<PathBuf>,
}

/// Everything a request may need.
pub struct Accounts {
    store: Store,
    passwords: Passwords,
    minter: Minter,
    doorward: Doorward,
    introspection: Option<introspection::Client>,
    stage: Option<stage::Stage>,
}

pub async fn run(args: Args) -> anyhow::Result<()> {
    if args.doorward.url.is_none() {
        warn!("without --doorward sign-outs are not reported; access tokens are valid until they expire");
    }
    let store = Store::open(&args.database).await.context("open the database (--database)")?;
    let passwords = Passwords::new().await.context("hash a password")?;
    seed(&store, &passwords).await.context("add the first users")?;
    let keys = SigningKeys::generate(args.key_lifetime, clock::now()).context("make a signing key")?;
    let minter = Minter { keys, issuer: args.issuer, audience: args.audience };
    let doorward = Doorward::new(args.doorward)?;
    let client = |file: PathBuf| introspection::Client::read(&args.introspection_client, &file);
    let introspection = args.introspection_secret_file.map(client).transpose()?;
    let stage = args.stage.map(stage::Stage::new).transpose()?;
    info!(database = store.kind(), "accounts");
    let accounts = Arc::new(Accounts { store, passwords, minter, doorward, introspection, stage });
    server::serve(args.listen, http::routes(accounts)).await
}

/// The users of the demo, with the passwords that its page shows to everyone.
async fn seed(store: &Store, passwords: &Passwords) -> anyhow::Result<()> {
    for (login, password, permissions) in
        [("alice", "wonderland", "admin orders:read orders:write"), ("bob", "builder", "orders:read")]
    {
        if store.user(login).await?.is_none() {
            let user = User {
                login: login.to_owned(),
                email: format!("{login}@example.com"),
                password_hash: passwords.hash(password.to_owned()).await?,
                permissions: permissions.to_owned(),
            };
            store.add_user(&user).await?;
        }
    }
    Ok(())
}

fn key_lifetime(text: &str) -> Result<Duration, String> {
    let lifetime = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    // A retired key is published until its tokens have expired: with shorter lifetimes hundreds would be published.
    let allowed = Duration::from_secs(5)..=Duration::from_secs(365 * 24 * 3600);
    if allowed.contains(&lifetime) { Ok(lifetime) } else { Err("must be between 5s and 365d".to_owned()) }
}
