//! Several instances on one store: a proof is used once at all of them.

use serde_json::json;

use super::client::{URI, hash};
use super::*;
use crate::ledger::support::RedisServer;
use crate::support::eventually;

/// Two instances on one Redis.
struct Fleet {
    redis: RedisServer,
    tokens: Tokens,
    client: Client,
    instances: Vec<(Doorward, Checks)>,
}

impl Fleet {
    async fn start(dpop: &str) -> Self {
        let (redis, tokens) = (RedisServer::start(&[]).await, Tokens::new());
        let store = format!("revocation: {{redis: {{url: \"{}\"}}, max_staleness: 1h}}\n", redis.url());
        let config = with_issuer(&tokens.config(&store), &format!("dpop: {{{dpop}}}, "));
        let mut instances = Vec::new();
        for _ in 0..2 {
            let doorward = Doorward::start(&config).await;
            let checks = Checks::connect(&doorward.check).await;
            instances.push((doorward, checks));
        }
        Self { redis, tokens, client: Client::new(), instances }
    }

    async fn check(&self, instance: usize, ask: crate::support::grpc::Ask) -> Verdict {
        self.instances[instance].1.check(ask).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proof_that_was_used_at_one_instance_is_refused_at_the_other() {
    let mut fleet = Fleet::start("").await;
    let bound = bound(&fleet.tokens, &fleet.client);
    let ask = fleet.client.get(&bound);
    names_alice(&fleet.check(0, ask.clone()).await);
    for instance in [1, 0] {
        assert_eq!(fleet.check(instance, ask.clone()).await.reason(), "proof_invalid", "instance {instance}");
    }
    // The entry stays for twice the window and the leeway, under a name that no client shaped.
    let keys = fleet.redis.cli(&["KEYS", "doorward:{r}:proof:*"]);
    assert_eq!(keys.lines().count(), 1, "{keys}");
    let key = keys.trim();
    assert_eq!(key.len(), "doorward:{r}:proof:".len() + 43);
    let left: i64 = fleet.redis.cli(&["TTL", key]).parse().unwrap();
    assert!((100..=150).contains(&left), "{left}");
    // One of many concurrent uses is accepted.
    let ask = fleet.client.get(&bound);
    let both = [0, 1, 0, 1, 0, 1].map(|instance| fleet.check(instance, ask.clone()));
    let verdicts = futures_util::future::join_all(both).await;
    assert_eq!(verdicts.iter().filter(|verdict| verdict.allowed()).count(), 1, "{verdicts:?}");

    // Without the store an earlier use cannot be excluded: bound tokens are refused, others are not.
    fleet.redis.kill();
    let used = fleet.check(1, fleet.client.get(&bound)).await;
    assert_eq!((used.status, used.reason()), (503, "store_unavailable"));
    names_alice(&fleet.check(1, crate::support::grpc::get("/orders").token(&fleet.tokens.of("alice"))).await);
    fleet.redis.run().await;
    eventually("the store is asked again", || async { fleet.check(1, fleet.client.get(&bound)).await.allowed() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_store_an_instance_may_go_by_its_own_memory() {
    let mut fleet = Fleet::start("on_store_down: local").await;
    let bound = bound(&fleet.tokens, &fleet.client);
    let before = fleet.client.get(&bound);
    names_alice(&fleet.check(0, before.clone()).await);
    fleet.redis.kill();
    let during = fleet.client.get(&bound);
    names_alice(&fleet.check(0, during.clone()).await);
    for known in [before, during.clone()] {
        assert_eq!(fleet.check(0, known).await.reason(), "proof_invalid");
    }
    names_alice(&fleet.check(1, during.clone()).await); // The cost of this setting.
    let degraded = "doorward_degraded_total{control=\"proofs\",fallback=\"local\"}";
    assert!(fleet.instances[0].0.metric(degraded).await.unwrap() >= 2.0);

    // The store knows nothing of it when it is back; the instance does.
    fleet.redis.run().await;
    eventually("the store is asked again", || async {
        let is_allowed = fleet.check(0, fleet.client.get(&bound)).await.allowed();
        is_allowed && !fleet.redis.cli(&["KEYS", "doorward:{r}:proof:*"]).is_empty()
    })
    .await;
    assert_eq!(fleet.check(0, during).await.reason(), "proof_invalid");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_memory_of_its_own_no_instance_asks_the_store() {
    let fleet = Fleet::start("replay: local").await;
    let bound = bound(&fleet.tokens, &fleet.client);
    let ask = fleet.client.get(&bound);
    for instance in [0, 1] {
        names_alice(&fleet.check(instance, ask.clone()).await);
        assert_eq!(fleet.check(instance, ask.clone()).await.reason(), "proof_invalid");
    }
    assert_eq!(fleet.redis.cli(&["KEYS", "doorward:{r}:proof:*"]), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nonce_of_one_instance_is_known_at_the_other() {
    let fleet = Fleet::start("nonce: true").await;
    let bound = bound(&fleet.tokens, &fleet.client);
    let with_nonce = |nonce: &str| {
        let claims = json!({"htm": "GET", "htu": URI, "ath": hash(&bound), "nonce": nonce});
        let proof = fleet.client.proof_with(&json!({}), &claims);
        get("/orders").header("authorization", format!("DPoP {bound}")).header("dpop", proof)
    };
    // The instances agree on a secret a moment after they are ready.
    eventually("a nonce is known at the other instance", || async {
        let asked = fleet.check(0, fleet.client.get(&bound)).await;
        let nonce = &asked.headers["dpop-nonce"];
        fleet.check(1, with_nonce(nonce)).await.allowed()
    })
    .await;
}
