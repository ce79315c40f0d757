//! Tokens of the development issuer, valid unless a test changes them.

use doorward::dev::{AUDIENCE, DevIssuer, ISSUER};
use serde_json::{Value, json};

pub struct Tokens {
    pub issuer: DevIssuer,
}

/// Seconds since the Unix epoch.
pub fn now() -> i64 {
    doorward::clock::now().as_secs()
}

impl Tokens {
    pub fn new() -> Self {
        Self { issuer: DevIssuer::generate().unwrap() }
    }

    /// A configuration that trusts these tokens; `more` is added to it.
    pub fn config(&self, more: &str) -> String {
        let store = if more.contains("revocation:") { "" } else { "revocation: {store: embedded}\n" };
        format!(
            "{store}issuers:\n  - {{name: dev, issuer: \"{ISSUER}\", audiences: [{AUDIENCE}], keys: {{jwks: {}}}}}\n{more}",
            self.issuer.jwks()
        )
    }

    /// Claims that are right: of `user`, issued a minute ago, valid for ten more.
    pub fn claims(user: &str) -> Value {
        json!({
            "iss": ISSUER, "aud": AUDIENCE, "sub": user, "email": format!("{user}@example.com"),
            "jti": format!("{:032x}", rand::random::<u128>()), "sid": format!("session-of-{user}"),
            "iat": now() - 60, "exp": now() + 600,
        })
    }

    /// A good token of a user.
    pub fn of(&self, user: &str) -> String {
        self.issuer.mint(&Self::claims(user)).unwrap()
    }

    /// A valid token with some claims replaced; `null` removes one.
    pub fn with(&self, changes: Value) -> String {
        let mut claims = Self::claims("alice");
        for (name, value) in changes.as_object().unwrap() {
            if value.is_null() {
                claims.as_object_mut().unwrap().remove(name);
            } else {
                claims[name] = value.clone();
            }
        }
        self.issuer.mint(&claims).unwrap()
    }
}
