//! Telling Doorward that something ended. Each event goes another of its documented ways, to show them; an
//! auth service of your own needs one.
//!
//! | event | way |
//! | --- | --- |
//! | sign-out | none: Doorward's rule `access: sign_out` recorded it before the request came here |
//! | a refresh token came twice | `POST /v1/revocations`, kind `session` |
//! | sign-out everywhere | `POST /v1/revocations`, kind `user` |
//! | password changed | Redis: `MULTI`, `SET`, `XADD`, `EXEC`, kind `user` |
//! | permissions changed | a security event token (CAEP `token-claims-change`) at `/signals/events` |
//!
//! The instant `at` comes from the clock that also writes `iat`, after the change is stored: tokens minted
//! before it are refused, those after it are not.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use reqwest::{Client, RequestBuilder, Url};
use serde_json::{Value, json};

use super::DoorwardArgs;
use super::tokens::{Minter, random, sha256_hex};
use crate::clock::Timestamp;

#[cfg_attr(not(feature = "redis"), path = "events/no_redis.rs")]
pub(super) mod redis;

/// After it the change is stored, and the caller gets an error, because Doorward does not know it.
const WAIT: Duration = Duration::from_secs(3);

pub struct Doorward {
    http: Client,
    url: Option<Url>,
    issuer_name: String,
    admin_key: Option<String>,
    redis: Option<redis::Log>,
    retention: Duration,
    audience: String,
    push_token: Option<String>,
}

impl Doorward {
    pub fn new(args: DoorwardArgs) -> anyhow::Result<Self> {
        let read = |file: &std::path::Path| {
            let text = std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
            Ok::<_, anyhow::Error>(text.trim().to_owned())
        };
        let admin_key = args.admin_key_file.as_deref().map(read).transpose()?.or(args.admin_key);
        ensure!(args.url.is_none() || admin_key.is_some(), "--doorward needs --admin-key-file or DOORWARD_ADMIN_KEY");
        Ok(Self {
            http: Client::builder().timeout(WAIT).redirect(reqwest::redirect::Policy::none()).build()?,
            url: args.url,
            issuer_name: args.issuer_name,
            admin_key,
            redis: args.redis.map(|url| redis::Log::open(url, args.redis_prefix)).transpose()?,
            retention: args.retention,
            audience: args.transmitter_audience,
            push_token: args.transmitter_token_file.as_deref().map(read).transpose()?,
        })
    }

    /// Ends a session for good.
    pub async fn session_ended(&self, sid: &str) -> anyhow::Result<()> {
        self.revoke(json!({"kind": "session", "id": sid, "reason": "refresh token reused"})).await
    }

    /// Revokes the tokens of a user that were issued up to `at`.
    pub async fn signed_out_everywhere(&self, login: &str, at: Timestamp) -> anyhow::Result<()> {
        self.revoke(json!({"kind": "user", "id": login, "at": at.rfc3339(), "reason": "signed out everywhere"})).await
    }

    /// As [`Self::signed_out_everywhere`], written into Doorward's Redis by its data contract.
    pub async fn password_changed(&self, login: &str, at: Timestamp) -> anyhow::Result<()> {
        let Some(redis) = &self.redis else {
            let event = json!({"kind": "user", "id": login, "at": at.rfc3339(), "reason": "password"});
            return self.revoke(event).await;
        };
        let id = stored_id(login);
        let (at, expires) = (at.millis(), at.plus(self.retention).millis());
        let write = redis.user_ended(&self.issuer_name, &id, at, expires);
        tokio::time::timeout(WAIT, write).await.context("write to Redis in time")?.context("write to Redis")
    }

    /// Revokes the tokens of a user that were issued up to `at`, so that they are refreshed with the new
    /// permissions (CAEP 1.0 section 3.2, pushed as of RFC 8935).
    pub async fn permissions_changed(
        &self,
        minter: &Minter,
        login: &str,
        permissions: &[String],
        at: Timestamp,
    ) -> anyhow::Result<()> {
        let Some(url) = &self.url else { return Ok(()) };
        let event = json!({"event_timestamp": at.numeric_date(), "claims": {"permissions": permissions}});
        let claims = json!({
            "iss": minter.issuer,
            "aud": self.audience,
            "iat": at.secs(),
            "jti": random::<16>()?,
            "sub_id": {"format": "iss_sub", "iss": minter.issuer, "sub": login},
            "events": {"https://schemas.openid.net/secevent/caep/event-type/token-claims-change": event},
        });
        let token = minter.keys.sign("secevent+jwt", &claims, at)?;
        let request = self.http.post(url.join("/signals/events")?).header("content-type", "application/secevent+jwt");
        let request = match &self.push_token {
            Some(push_token) => request.bearer_auth(push_token),
            None => request,
        };
        send("push a security event", request.body(token)).await
    }

    /// How long a revocation takes at this moment, in milliseconds, from the request until every instance refuses, and
    /// how many there are. It is one of a session that nobody has: the sign-out itself stays the user's own.
    pub async fn time(&self) -> Option<(f64, u64)> {
        let what =
            json!({"kind": "session", "id": format!("timed-{}", random::<8>().ok()?), "issuer": self.issuer_name});
        let url = self.url.as_ref()?.join("/v1/revocations?wait=all&timeout=500ms").ok()?;
        let request = self.http.post(url).bearer_auth(self.admin_key.as_ref()?).header("accept", "text/event-stream");
        let began = Instant::now();
        let mut response = request.json(&what).send().await.ok()?.error_for_status().ok()?;
        let mut text = String::new();
        while let Some(chunk) = response.chunk().await.ok()? {
            text.push_str(std::str::from_utf8(&chunk).ok()?);
            let told =
                text.lines().rev().find_map(|line| serde_json::from_str::<Value>(line.strip_prefix("data: ")?).ok());
            let whole = |told: &Value| told["confirmed"] == true || told["applied"] == told["instances"];
            if let Some(told) = told.filter(whole) {
                let ms = told["took_ms"].as_f64().unwrap_or(began.elapsed().as_secs_f64() * 1000.0);
                return Some((ms, told["instances"].as_u64()?));
            }
        }
        None
    }

    async fn revoke(&self, mut what: Value) -> anyhow::Result<()> {
        let (Some(url), Some(admin_key)) = (&self.url, &self.admin_key) else { return Ok(()) };
        what["issuer"] = json!(self.issuer_name);
        let request = self.http.post(url.join("/v1/revocations")?).bearer_auth(admin_key);
        send("post a revocation", request.json(&what)).await
    }
}

/// An id as Doorward's data contract writes it: no character of a login shapes a key.
fn stored_id(id: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._~@|+=-".contains(&byte);
    let fits = (1..=128).contains(&id.len()) && id.bytes().all(plain);
    if fits { id.to_owned() } else { format!("sha256:{}", sha256_hex(id)) }
}

/// Only 2xx is a success: Doorward answers 2xx after the event is in the store.
async fn send(what: &'static str, request: RequestBuilder) -> anyhow::Result<()> {
    let response = request.send().await.context(what)?;
    ensure!(response.status().is_success(), "{what}: Doorward answered {}", response.status());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_odd_id_is_written_as_its_digest() {
        for plain in ["alice", "alice@example.com", "a+b=c|d.e_f~g-1"] {
            assert_eq!(stored_id(plain), plain);
        }
        for odd in ["", "a b", "a:b", "{r}", "é", "a\nb", &"x".repeat(129)] {
            let id = stored_id(odd);
            assert!(id.starts_with("sha256:") && id.len() == 71, "{odd:?}: {id}");
        }
    }
}
