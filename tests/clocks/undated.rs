//! Entries of other writers that name no instant: their ids are of the store's clock, which may be behind.

use serde_json::json;

use crate::api::{admin_keys, reason};
use crate::ledger::support::RedisServer;
use crate::support::doorward::Doorward;
use crate::support::eventually;
use crate::support::grpc::Checks;
use crate::support::tokens::{Tokens, now};

pub(super) fn add(redis: &RedisServer, kind: &str, id: &str) {
    redis.cli(&["XADD", "doorward:{r}:log", "*", "issuer", "dev", "kind", kind, "id", id]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_covers_what_was_issued_though_the_clock_of_the_store_is_behind() {
    let (tokens, redis) = (Tokens::new(), RedisServer::start_with_clock(&[]).await);
    let store = format!("revocation: {{store: redis, redis: {{url: \"{}\"}}}}\n{}", redis.url(), admin_keys());
    let config = tokens.config(&store);
    redis.step_clock("-2m");
    let doorward = Doorward::start(&config).await;
    let checks = Checks::connect(&doorward.check).await;
    let of = |user: &str, client: &str| {
        tokens.with(json!({"sub": user, "sid": null, "azp": client, "iat": now() - 2, "exp": now() + 600}))
    };
    let skew = async || doorward.metric("doorward_clock_skew_seconds{of=\"store\"}").await.unwrap_or_default();
    for (round, offset, ahead) in [(1, "-2m", 120.0), (2, "-25s", 25.0), (3, "-1h", 3_600.0), (4, "+0", 0.0)] {
        redis.step_clock(offset);
        // At once, and when the step has been noticed.
        for moment in ["at-once", "later"] {
            if moment == "later" {
                eventually("the step is noticed", async || (skew().await - ahead).abs() < 3.0).await;
            }
            let (user, client) = (format!("user-{round}-{moment}"), format!("client-{round}-{moment}"));
            let (of_user, of_client) = (of(&user, "other"), of("somebody", &client));
            for token in [&of_user, &of_client] {
                assert_eq!(reason(&checks, token).await, "ok");
            }
            add(&redis, "user", &user);
            add(&redis, "client", &client);
            for token in [of_user, of_client] {
                eventually("it is refused", async || reason(&checks, &token).await == "revoked").await;
            }
        }
    }
    let lasting = of("user-3-later", "other");
    // One that starts reads ids that are an hour old, of a clock that was set since.
    redis.step_clock("-1h");
    eventually("the step is noticed", async || skew().await > 3_000.0).await;
    let token = of("last", "other");
    add(&redis, "user", "last");
    eventually("it is refused", async || reason(&checks, &token).await == "revoked").await;
    redis.step_clock("+0");
    eventually("the step is noticed", async || skew().await.abs() < 3.0).await;
    let noted =
        async || redis.cli(&["ZSCORE", "doorward:{r}:clock", "since"]).parse().unwrap_or(0) / 1_000 > now() - 600;
    eventually("it is noted", noted).await;
    let later = Doorward::start(&config).await;
    let later = Checks::connect(&later.check).await;
    for token in [&token, &lasting] {
        assert_eq!(reason(&later, token).await, "revoked");
    }
    // The user can sign in again.
    eventually("a new token is accepted", async || {
        let token = tokens.with(json!({"sub": "last", "sid": null, "iat": now(), "exp": now() + 600}));
        reason(&later, &token).await == "ok"
    })
    .await;
}
