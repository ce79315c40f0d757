//! The real binary, cut off or stopped: from when on it refuses, and how soon it is current again.

use std::time::{Duration, Instant};

use doorward::authz::claims::IssuerName;
use doorward::authz::revocation::{Kind, Revocation, Target, TargetId};
use serde_json::json;
use tokio::time::sleep;

use super::support::*;
use crate::support::doorward::Doorward;
use crate::support::grpc::{Checks, get};
use crate::support::proxy::Proxy;
use crate::support::tokens::Tokens;

const MAX_STALENESS: Duration = Duration::from_secs(1);

fn config(tokens: &Tokens, port: u16) -> String {
    let redis = format!("{{url: \"redis://127.0.0.1:{port}\"}}");
    tokens.config(&format!("revocation: {{store: redis, max_staleness: 1s, redis: {redis}}}\n"))
}

/// A sign-out of the token with this id, as another instance would write it.
fn of_dev(id: &str) -> Revocation {
    let target = Target::new(IssuerName::parse("dev").unwrap(), Kind::Token, TargetId::new(id));
    Revocation { target, ..sign_out(id) }
}

async fn reason(checks: &Checks, token: &str) -> String {
    checks.check(get("/").token(token)).await.reason().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_is_cut_off_refuses_in_time_and_is_soon_current_again() {
    let (tokens, redis) = (Tokens::new(), RedisServer::start(&[]).await);
    let proxy = Proxy::start(redis.port);
    let (doorward, other) = (Doorward::start(&config(&tokens, proxy.port)).await, Instance::start(&redis).await);
    let checks = Checks::connect(&doorward.check).await;
    let bob = tokens.of("bob");
    for (way, stalls) in [("nothing passes", true), ("connections are refused", false)] {
        let id = format!("cut-{stalls}");
        let alice = tokens.with(json!({"jti": &id}));
        assert_eq!(reason(&checks, &alice).await, "ok");
        if stalls {
            proxy.stall();
        } else {
            proxy.refuse();
        }
        let cut = Instant::now();
        other.replica.revoke(vec![of_dev(&id)]).await.unwrap();
        let revoked = Instant::now();
        let mut last_allowed = revoked;
        let refused = loop {
            let sent = Instant::now();
            match &*reason(&checks, &alice).await {
                "ok" => last_allowed = last_allowed.max(sent),
                "revocations_stale" => break sent,
                other => panic!("{other}"),
            }
        };
        // Sent later than the bound after the acknowledgement, and allowed, would be wrong.
        assert!(last_allowed - revoked <= MAX_STALENESS, "{:?}", last_allowed - revoked);
        println!("{way}: refuses {:?} after the cut", refused - cut);
        assert_eq!(reason(&checks, &bob).await, "revocations_stale");

        for chunk in 0..10 {
            let missed = (0..1000).map(|n| of_dev(&format!("missed-{stalls}-{chunk}-{n}"))).collect();
            other.replica.revoke(missed).await.unwrap();
        }
        proxy.heal();
        let healed = Instant::now();
        loop {
            match &*reason(&checks, &bob).await {
                "ok" => break,
                "revocations_stale" => assert!(healed.elapsed() < PATIENCE),
                other => panic!("{other}"),
            }
            let answer = reason(&checks, &alice).await;
            assert!(["revocations_stale", "signed_out"].contains(&&*answer), "{answer}");
        }
        println!("{way}: current {:?} after rejoining, 10,000 missed", healed.elapsed());
        let last = tokens.with(json!({"jti": format!("missed-{stalls}-9-999")}));
        assert_eq!(reason(&checks, &last).await, "signed_out", "current means all of it");
        assert_eq!(reason(&checks, &alice).await, "signed_out");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_was_stopped_refuses_until_it_is_current() {
    let (tokens, redis) = (Tokens::new(), RedisServer::start(&[]).await);
    let (doorward, other) = (Doorward::start(&config(&tokens, redis.port)).await, Instance::start(&redis).await);
    let checks = Checks::connect(&doorward.check).await;
    let (alice, bob) = (tokens.with(json!({"jti": "alice"})), tokens.of("bob"));
    assert_eq!(reason(&checks, &alice).await, "ok");
    doorward.process.signal("STOP");
    other.replica.revoke(vec![of_dev("alice")]).await.unwrap();
    let revoked = Instant::now();
    // Sent while the process stands still: answered at the moment when it continues, before it can have read any
    // entry.
    sleep(MAX_STALENESS + Duration::from_millis(200)).await;
    let waiting =
        (0..50).map(|n| {
            let (checks, alice, bob) = (checks.clone(), alice.clone(), bob.clone());
            async move {
                if n % 2 == 0 { (true, reason(&checks, &alice).await) } else { (false, reason(&checks, &bob).await) }
            }
        });
    let waiting = waiting.collect();
    let (answers, ()) = tokio::join!(join_all(waiting), async {
        sleep(Duration::from_millis(100)).await; // The bytes are on their way.
        assert!(revoked.elapsed() > MAX_STALENESS);
        doorward.process.signal("CONT");
    });
    for (is_revoked, answer) in &answers {
        let right: &[&str] =
            if *is_revoked { &["revocations_stale", "signed_out"] } else { &["revocations_stale", "ok"] };
        assert!(right.contains(&&**answer), "{answers:?}");
    }
    let stale = answers.iter().filter(|(_, answer)| answer == "revocations_stale").count();
    println!("{stale} of 50 waiting checks were refused as stale");
    crate::support::eventually("current", || async { reason(&checks, &bob).await == "ok" }).await;
    assert_eq!(reason(&checks, &alice).await, "signed_out");
}
