//! Hostile tokens and requests, one case a row, through real gRPC Checks of the real binary.
//!
//! Each is valid except for the fault of its row, so that exactly this fault is refused. Where the
//! contract leaves room, a row takes the strict reading, with a comment.

mod algorithms;
mod authorization;
mod claims;
mod encodings;
mod envoy;
pub mod forge;
mod headers;
mod identities;
mod keys;
mod messages;
mod nat;
mod signatures;
mod transplant;
mod wycheproof;

use std::sync::LazyLock;

use serde_json::{Value, json};

use crate::support::TempDir;
use crate::support::doorward::Doorward;
use crate::support::grpc::{Ask, Checks, Verdict, get};
use crate::support::tokens::now;
use envoy::Provider;
use forge::{Key, base64url};

const ISSUER: &str = "https://issuer.test";
/// Verifies by a shared secret.
const SECRET_ISSUER: &str = "https://secret.test";
const AUDIENCE: &str = "demo";
const ASYMMETRIC: &str = "[RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, ES512, EdDSA]";

/// The keys of the issuers, made once: an RSA key takes a second.
struct Keys {
    ec: Key,
    ec384: Key,
    ec521: Key,
    ed: Key,
    rsa: Key,
    pss: Key,
    /// Public exponent 3, for which careless padding checks can be cheated without the private key.
    cube: Key,
    secret: Key,
    /// A key of an untrusted issuer.
    stranger: Key,
}

static KEYS: LazyLock<Keys> = LazyLock::new(|| Keys {
    ec: Key::ec(),
    ec384: Key::ec384(),
    ec521: Key::ec521(),
    ed: Key::ed(),
    rsa: Key::rsa(),
    pss: Key::rsa(),
    cube: Key::Rsa(Box::new(forge::Rsa::generate(2048, 3))),
    secret: Key::Secret((0..64).collect()),
    stranger: Key::ec(),
});

impl Keys {
    /// The keys of the main issuer by their `kid`, with the algorithm of each.
    fn published(&self) -> [(&'static str, &'static str, &Key); 7] {
        [
            ("ec", "ES256", &self.ec),
            ("ec384", "ES384", &self.ec384),
            ("ec521", "ES512", &self.ec521),
            ("ed", "EdDSA", &self.ed),
            ("rsa", "RS256", &self.rsa),
            ("pss", "PS256", &self.pss),
            ("cube", "RS256", &self.cube),
        ]
    }
}

/// Claims that are right, with some changed; `null` takes one out.
fn claims_with(changes: Value) -> Value {
    let right = json!({
        "iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "email": "alice@example.com",
        "jti": format!("{:032x}", rand::random::<u128>()), "sid": "session-1", "azp": "client-1",
        "iat": now() - 60, "exp": now() + 600,
    });
    forge::with(right, &changes)
}

fn right_claims() -> Vec<u8> {
    claims_with(json!({})).to_string().into_bytes()
}

/// The claims as text, one of them replaced by verbatim JSON text: for values that no JSON library
/// writes.
fn claims_written(name: &str, text: &str) -> Vec<u8> {
    let mark = "\"the-text-goes-here\"";
    let claims = claims_with(json!({name: "the-text-goes-here"})).to_string();
    assert!(claims.contains(mark));
    claims.replace(mark, text).into_bytes()
}

const EC_HEADER: &str = r#"{"alg":"ES256","typ":"JWT","kid":"ec"}"#;

/// A token right in its header and signature, of this payload.
fn signed(payload: impl AsRef<[u8]>) -> String {
    KEYS.ec.token("ES256", EC_HEADER, payload.as_ref())
}

/// A token right in its claims and signature, of this header.
fn headed(header: &str) -> String {
    KEYS.ec.token("ES256", header, &right_claims())
}

fn good() -> String {
    signed(right_claims())
}

pub enum Expected {
    Allowed,
    /// Allowed, with these headers removed and not set.
    Without(&'static [&'static str]),
    /// For one of these reasons.
    Refused(&'static [&'static str]),
}

/// A running Doorward and the rows it is asked.
struct Corpus {
    doorward: Doorward,
    checks: Checks,
    rows: Vec<(String, Ask, Expected)>,
    /// The issuers in the configuration of Envoy's own filter.
    providers: Vec<Provider>,
}

impl Corpus {
    async fn start() -> Self {
        let keys: Vec<Value> = KEYS
            .published()
            .iter()
            .map(|(kid, alg, key)| key.jwk(json!({"kid": kid, "alg": alg, "use": "sig"})))
            .collect();
        Self::of(json!({ "keys": keys })).await
    }

    /// The main issuer publishes these keys.
    async fn of(jwks: Value) -> Self {
        let dir = TempDir::new();
        std::fs::write(dir.path().join("jwks.json"), jwks.to_string()).unwrap();
        let Key::Secret(secret) = &KEYS.secret else { unreachable!() };
        std::fs::write(dir.path().join("secret"), secret).unwrap();
        let issuers = format!(
            r#"
  - {{name: main, issuer: "{ISSUER}", audiences: [{AUDIENCE}], keys: {{jwks_file: jwks.json}}, algorithms: {ASYMMETRIC}}}
  - {{name: secret, issuer: "{SECRET_ISSUER}", audiences: [{AUDIENCE}], keys: {{secret_file: secret}}}}
"#
        );
        let shared = KEYS.secret.jwk(json!({"alg": "HS256"}));
        let provider = |issuer: &str, jwks: Value| Provider { issuer: issuer.to_owned(), jwks: jwks.to_string() };
        let providers = vec![provider(ISSUER, jwks), provider(SECRET_ISSUER, json!({"keys": [shared]}))];
        Self::launch(dir, &issuers, providers).await
    }

    /// Starts with these entries of `issuers`; their files are in `dir`.
    async fn launch(dir: TempDir, issuers: &str, providers: Vec<Provider>) -> Self {
        let config = format!(
            r#"
issuers:
{issuers}
token: {{from: [{{header: authorization, scheme: Bearer}}]}}
identity:
  headers: {{x-user-id: user_id, x-user-email: email, x-session-id: session_id, x-client-id: client_id, x-token-id: token_id, x-scopes: scopes, x-role: "claim:/role"}}
rules:
  - {{name: public, match: {{path_prefix: /public}}, access: public}}
  - {{name: optional, match: {{path_prefix: /optional}}, access: optional}}
  - {{name: shadow, match: {{path_prefix: /shadow}}, enforce: false}}
  - {{name: refresh, match: {{path: /refresh, methods: [POST]}}, access: refresh}}
  - {{name: logout, match: {{path: /logout, methods: [POST]}}, access: sign_out, sign_out: {{scope: token, then: forward}}}}
revocation: {{store: embedded}}
"#
        );
        let doorward = Doorward::launch_in(dir, &config).await;
        doorward.ready().await;
        let checks = Checks::connect(&doorward.check).await;
        Self { doorward, checks, rows: Vec::new(), providers }
    }

    fn allowed(&mut self, what: impl Into<String>, token: &str) {
        self.ask(what, get("/").token(token), Expected::Allowed);
    }

    fn refused(&mut self, what: impl Into<String>, token: &str, reasons: &'static [&'static str]) {
        self.ask(what, get("/").token(token), Expected::Refused(reasons));
    }

    fn ask(&mut self, what: impl Into<String>, ask: Ask, expected: Expected) {
        self.rows.push((what.into(), ask, expected));
    }

    /// Checks every row; reports all failures at once.
    async fn run(self, class: &str) {
        let mut wrong = Vec::new();
        let (mut allowed, mut refused) = (0, 0);
        if let Some(binary) = envoy::wanted() {
            envoy::compare(&binary, class, &self.providers, &self.rows).await;
        }
        let mut apart = Vec::new();
        if let Some(binary) = crate::support::envoy::binary() {
            apart = crate::module::compare(&binary, &self.doorward, &self.rows).await;
        }
        for (what, ask, expected) in self.rows {
            let verdict = self.checks.check(ask).await;
            if let Some(fault) = fault(&verdict, &expected) {
                wrong.push(format!("{what}: {fault}"));
            }
            if matches!(expected, Expected::Refused(_)) { refused += 1 } else { allowed += 1 }
        }
        eprintln!("corpus {class}: {refused} to refuse, {allowed} to allow, {} wrong", wrong.len());
        assert!(self.doorward.get("/livez").await.0 == 200, "{class}: the process lives on");
        assert!(wrong.is_empty(), "{class}: {} wrong:\n{}", wrong.len(), wrong.join("\n"));
        assert!(apart.is_empty(), "{class}: the module answers {} otherwise:\n{}", apart.len(), apart.join("\n"));
    }
}

/// The fault of a verdict, including the rules for all rows.
fn fault(verdict: &Verdict, expected: &Expected) -> Option<String> {
    let readable = |text: &str| text.bytes().all(|byte| matches!(byte, 0x20..=0x7e));
    for (name, value) in verdict.headers.iter().chain(&verdict.metadata) {
        if !readable(value) {
            return Some(format!("{name} holds {value:?}"));
        }
    }
    match expected {
        Expected::Allowed if verdict.allowed() => None,
        Expected::Without(names) if verdict.allowed() => names
            .iter()
            .find(|name| verdict.headers.contains_key(**name) || !verdict.removed.iter().any(|other| other == *name))
            .map(|name| format!("{name} is set to {:?} or not removed", verdict.headers.get(*name))),
        Expected::Refused(reasons) if !verdict.allowed() && reasons.contains(&verdict.reason()) => {
            let server_fault = verdict.status >= 500;
            (server_fault || verdict.body.is_empty()).then(|| format!("answered {} {:?}", verdict.status, verdict.body))
        }
        Expected::Refused(reasons) => Some(format!("{}, not one of {reasons:?}", verdict.reason())),
        _ => Some(format!("refused: {}", verdict.reason())),
    }
}

/// The three segments of a token.
fn segments(token: &str) -> [String; 3] {
    let parts: Vec<_> = token.split('.').map(str::to_owned).collect();
    parts.try_into().unwrap()
}

/// The ES256 signature of a token, in bytes.
fn signature_of(token: &str) -> Vec<u8> {
    forge::from_base64url(&segments(token)[2])
}

/// A token with another signature.
fn resigned(token: &str, signature: impl AsRef<[u8]>) -> String {
    format!("{}.{}", token.rsplit_once('.').unwrap().0, base64url(signature))
}
