//! Token Status Lists (draft-ietf-oauth-status-list), made and judged by npm's `@sd-jwt/jwt-status-list`.

mod consume;
mod publish;
mod streams;

use doorward::dev::AUDIENCE;
use serde_json::{Value, json};

use crate::event_sources::NodeProcess;
use crate::support::doorward::Doorward;
use crate::support::grpc::{Checks, get};
use crate::support::tokens::now;

/// An issuer with lists.
pub struct Issuer {
    node: NodeProcess,
}

impl Issuer {
    /// `None` if the test is skipped, with a message.
    pub fn start() -> Option<Self> {
        let folder = format!("{}/.tools/status-list", env!("CARGO_MANIFEST_DIR"));
        if !std::path::Path::new(&folder).join("node_modules/@sd-jwt/jwt-status-list").is_dir() {
            eprintln!("SKIPPED: .tools/status-list does not hold @sd-jwt/jwt-status-list; ./tests/run.sh fetches it");
            return None;
        }
        Some(Self { node: NodeProcess::run("status_lists/issuer.mjs", &folder, &[]) })
    }

    fn command(&self, name: &str, argument: &Value) -> Value {
        let mut answer = self.node.command(&json!({name: argument}));
        let answer = answer["answer"].take();
        assert!(answer["error"].is_null(), "{name}: {answer}");
        answer
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.node.port)
    }

    /// A configuration that trusts it; `settings` of the status lists, in braces, or nothing.
    pub fn config(&self, settings: &str, more: &str) -> String {
        let store = if more.contains("revocation:") { "" } else { "revocation: {store: embedded}\n" };
        let lists = if settings.is_empty() { String::new() } else { format!("status_list: {settings}, ") };
        format!(
            "{store}issuers:\n  - {{name: main, issuer: \"{}\", audiences: [{AUDIENCE}], {lists}keys: {{jwks_url: \"{}\"}}}}\n{more}",
            self.url(""),
            self.url("/jwks")
        )
    }

    /// A token with claims beside the usual ones.
    pub fn token(&self, user: &str, more: &Value) -> String {
        let mut claims = json!({
            "aud": AUDIENCE, "sub": user, "jti": format!("{:032x}", rand::random::<u128>()), "iat": now() - 60,
            "exp": now() + 600,
        });
        claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.command("mint", &claims).as_str().unwrap().to_owned()
    }

    /// A token whose status is at an index of the list at a path.
    pub fn listed(&self, user: &str, path: &str, index: usize) -> String {
        self.token(user, &json!({"status": {"status_list": {"idx": index, "uri": self.url(path)}}}))
    }

    /// Publishes a list; `more`: `claims`, `header` and `other` of the command.
    pub fn publish(&self, path: &str, bits: u8, values: &[u8], more: &Value) {
        let mut list = json!({"path": path, "bits": bits, "values": values});
        list.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.command("publish", &list);
    }

    pub fn answer(&self, path: &str, status: u16) {
        self.command("answer", &json!({"path": path, "status": status}));
    }

    pub fn fetches(&self, path: &str) -> u64 {
        self.command("fetches", &json!(path)).as_u64().unwrap()
    }
}

/// A Doorward that reads the lists of an issuer.
pub struct Fixture {
    pub issuer: Issuer,
    pub doorward: Doorward,
    pub checks: Checks,
}

impl Fixture {
    pub async fn start(settings: &str, more: &str) -> Option<Self> {
        let issuer = Issuer::start()?;
        let doorward = Doorward::start(&issuer.config(settings, more)).await;
        let checks = Checks::connect(&doorward.check).await;
        Some(Self { issuer, doorward, checks })
    }

    pub async fn at(&self, path: &str, token: &str) -> (u16, String) {
        let verdict = self.checks.check(get(path).token(token)).await;
        (verdict.status, verdict.reason().to_owned())
    }

    pub async fn check(&self, token: &str) -> (u16, String) {
        self.at("/", token).await
    }

    pub async fn reason(&self, token: &str) -> String {
        self.check(token).await.1
    }
}
