//! A reload ends the streams whose tokens are not accepted any more, and no others.

use serde_json::json;
use tonic::Code;

use super::forged::{call, facts, opening};
use crate::support::doorward::Doorward;
use crate::support::eventually;
use crate::support::grpc::{Checks, get};
use crate::support::jwks_server::JwksServer;
use crate::support::tokens::Tokens;

struct Stage {
    tokens: Tokens,
    doorward: Doorward,
    checks: Checks,
    reloads: f64,
}

impl Stage {
    async fn set(keys: &str, tokens: Tokens) -> Self {
        let config = tokens.config("").replace(&format!("jwks: {}", tokens.issuer.jwks()), keys);
        assert!(config.contains(keys));
        let doorward = Doorward::start(&config).await;
        let checks = Checks::connect(&doorward.check).await;
        Self { tokens, doorward, checks, reloads: 0.0 }
    }

    /// Replaces a text of the configuration, and waits until tokens are decided by the next one.
    async fn reload(&mut self, from: &str, to: &str) {
        let file = self.doorward.dir.path().join("doorward.yaml");
        let (text, next) = (std::fs::read_to_string(&file).unwrap(), self.doorward.dir.path().join("next"));
        assert_eq!(text.matches(from).count(), 1, "{from}");
        std::fs::write(&next, text.replace(from, to)).unwrap();
        std::fs::rename(next, file).unwrap();
        self.reloads += 1.0;
        let reloads = "doorward_config_reloads_total{result=\"ok\"}";
        eventually("the configuration is in force", || async {
            self.doorward.metric(reloads).await == Some(self.reloads)
        })
        .await;
        eventually("its keys are loaded", || async {
            self.checks.check(get("/").token(&self.tokens.of("carol"))).await.allowed()
        })
        .await;
    }

    async fn open(&self) -> Option<f64> {
        self.doorward.metric("doorward_streams{state=\"open\"}").await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_that_takes_nothing_from_a_token_ends_no_stream() {
    let tokens = Tokens::new();
    let (first, second) =
        (JwksServer::start(tokens.issuer.jwks()).await, JwksServer::start(tokens.issuer.jwks()).await);
    let mut stage = Stage::set(&format!("jwks_url: \"{}\"", first.url()), tokens).await;
    let issuer = format!("\"{}\"", doorward::dev::ISSUER);
    let mut alice = call(&stage.doorward, vec![opening(&facts(&stage.checks, &stage.tokens.of("alice")).await)]).await;
    let mut bob = call(&stage.doorward, vec![opening(&facts(&stage.checks, &stage.tokens.of("bob")).await)]).await;
    alice.first().await;
    bob.first().await;
    let mut key = stage.tokens.issuer.jwks()["keys"][0].clone();
    key["kid"] = json!(null);
    let unnamed = format!("jwks: {}", json!({"keys": [key]}));
    let spellings = format!("[{issuer}, \"https://second.test\"]");
    for (what, from, to) in [
        ("the keys move", first.url(), second.url()),
        ("a second spelling", issuer.clone(), spellings.clone()),
        ("another name", "name: dev,".to_owned(), "name: renamed, formerly: [dev],".to_owned()),
        ("the keys stand here, without their names", format!("jwks_url: \"{}\"", second.url()), unnamed),
    ] {
        stage.reload(&from, &to).await;
        assert_eq!(stage.open().await, Some(2.0), "{what}");
    }
    // A revocation under the present name ends a stream that was opened under the earlier one.
    assert_eq!(stage.doorward.post("/logout?all=true", &stage.tokens.of("alice")).await.0, 204);
    alice.is_ended(Code::Unauthenticated).await;
    assert_eq!(stage.open().await, Some(1.0));
    // A spelling that goes may be that of any of them.
    stage.reload(&spellings, &issuer).await;
    bob.is_ended(Code::Unauthenticated).await;
    assert_eq!(stage.doorward.metric("doorward_streams_ended_total{cause=\"issuer_removed\"}").await, Some(1.0));
}

/// Its streams could not be found by the names that revocations have from then on.
#[tokio::test(flavor = "multi_thread")]
async fn streams_end_when_users_are_named_by_another_claim() {
    let tokens = Tokens::new();
    let keys = format!("jwks: {}", tokens.issuer.jwks());
    let mut stage = Stage::set(&keys, tokens).await;
    let mut alice = call(&stage.doorward, vec![opening(&facts(&stage.checks, &stage.tokens.of("alice")).await)]).await;
    alice.first().await;
    stage.reload("name: dev,", "name: dev, claims: {user_id: email},").await;
    alice.is_ended(Code::Unauthenticated).await;
}
