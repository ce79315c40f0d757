//! Keys that another service writes, without entries in the log.

use std::time::{Duration, Instant};

use doorward::authz::claims::{IssuerName, Timestamp};
use doorward::authz::revocation::{Kind, Origin, Target, TargetId};
use doorward::sources::ledger::{Adopt, AdoptedKeys, Names, RedisConfig};

use super::support::*;
use crate::support::doorward::Doorward;
use crate::support::grpc::{Checks, get};
use crate::support::tokens::{self, Tokens};

const LEEWAY: Duration = Duration::from_secs(30);
const WITHIN: Duration = Duration::from_secs(1);

fn issuer(name: &str) -> IssuerName {
    IssuerName::parse(name).unwrap()
}

fn adopting(config: RedisConfig) -> RedisConfig {
    let issuers = vec![(issuer("main"), LEEWAY), (issuer("other"), Duration::ZERO)];
    RedisConfig { adopt: Some(Adopt { keys: blacklist(), within: WITHIN, issuers }), ..config }
}

#[tokio::test]
async fn keys_of_another_service_are_honoured_for_every_issuer_until_they_end() {
    let redis = RedisServer::start(&[]).await;
    let sets: Vec<_> = (0..3000).map(|n| format!("SET blacklist:old-{n} 1 EX 600\n")).collect();
    redis.script(&sets.concat());
    let instance = Instance::launch(adopting(redis.config()));
    instance.becomes_ready().await;
    assert!((0..3000).all(|n| instance.refuses(&token(&format!("old-{n}")))), "all of them, before it is ready");
    let other = Target::new(issuer("other"), Kind::Token, TargetId::new("old-7"));
    assert!(instance.refuses(&other));
    assert!(!instance.refuses(&token("old-3000")));

    redis.cli(&["SET", "blacklist:new", "anything", "EX", "100"]);
    redis.cli(&["SET", "blacklist:an odd: id", "1"]);
    redis.cli(&["HSET", "blacklist:a-hash", "by", "hand"]);
    redis.cli(&["SET", "blacklisted:x", "1"]);
    let ends = redis.cli(&["PEXPIRETIME", "blacklist:new"]);
    for id in ["new", "an odd: id", "a-hash"] {
        instance.comes_to_refuse(&token(id)).await;
    }
    assert!(!instance.refuses(&token("x")));
    let expires = |id: &str| {
        let found = instance.replica.index().revocations().find(|known| known.target == token(id)).unwrap();
        assert_eq!(found.origin, Origin::Revoked);
        found.expires_at
    };
    let ends = Timestamp::from_millis(ends.parse::<i64>().unwrap() + 30_000);
    assert_eq!(expires("new").as_secs(), ends.as_secs_ceil(), "its own end, and the leeway");
    let retention = redis.config().retention;
    assert!(expires("an odd: id") > now().plus(retention.saturating_sub(LEEWAY)), "without an end: the retention");
    instance.replica.retain_for(2 * retention, Duration::ZERO);
    redis.cli(&["SET", "blacklist:later", "1"]);
    eventually("read", || instance.refuses(&token("later"))).await;
    assert!(expires("later") > now().plus((2 * retention).saturating_sub(LEEWAY)), "as it is now");
    // A longer life is seen before the shorter one ends, and a deleted key stays in force.
    redis.cli(&["EXPIRE", "blacklist:new", "1"]);
    redis.cli(&["SET", "blacklist:brief", "1", "PX", "1200"]);
    instance.comes_to_refuse(&token("brief")).await;
    redis.cli(&["SET", "blacklist:brief", "1", "EX", "500"]);
    eventually("the longer life", || expires("brief") > now().plus(Duration::from_secs(400))).await;
    redis.cli(&["DEL", "blacklist:brief"]);
    let fresh = |at: Instant| instance.age().is_some_and(|age| age < at.elapsed());
    let deleted = Instant::now();
    eventually("read again", || fresh(deleted)).await;
    assert!(instance.refuses(&token("brief")));
}

#[tokio::test]
async fn a_lookup_asks_for_the_adopted_key_too() {
    let redis = RedisServer::start(&[]).await;
    let instance = Instance::launch(adopting(redis.config()));
    instance.becomes_ready().await;
    redis.cli(&["SET", "blacklist:j", "1", "EX", "100"]);
    let hit = instance.replica.lookup(&[token("j")], None).await.unwrap().unwrap();
    assert_eq!((hit.kind, hit.origin), (Kind::Token, Origin::Revoked), "at once");
    assert_eq!(instance.replica.lookup(&[token("k"), target(Kind::User, "j")], None).await.unwrap(), None);
    instance.replica.revoke(vec![sign_out("k")]).await.unwrap();
    assert_eq!(instance.replica.lookup(&[token("k")], None).await.unwrap().unwrap().origin, Origin::SignedOut);
    // A service's own key and an operator's revocation are different: the latter is in the log.
    instance.comes_to_refuse(&token("j")).await;
    let revoked = doorward::authz::revocation::Revocation { origin: Origin::Revoked, ..sign_out("j") };
    instance.replica.revoke(vec![revoked]).await.unwrap();
    assert_eq!(redis.cli(&["XLEN", "doorward:{r}:log"]), "2");
}

#[tokio::test]
async fn a_key_is_honoured_within_the_bound_or_the_view_is_stale() {
    let redis = RedisServer::start(&[]).await;
    let instance = Instance::launch(adopting(redis.config()));
    instance.becomes_ready().await;
    let within = Duration::from_secs(1);
    let mut written: Vec<(String, Instant)> = Vec::new();
    let began = Instant::now();
    let mut late = 0;
    while began.elapsed() < Duration::from_secs(5) {
        let id = format!("t-{}", written.len());
        redis.cli(&["SET", &format!("blacklist:{id}"), "1", "EX", "100"]);
        written.push((id, Instant::now()));
        if began.elapsed() > Duration::from_secs(2) && late == 0 {
            redis.cli(&["ACL", "SETUSER", "default", "-scan"]); // From here on it can only grow stale.
            late = written.len();
        }
        let now = Instant::now(); // Taken first, then the age: what a decision would do.
        let age = instance.age().unwrap();
        for (id, at) in &written {
            let written_ago = now.saturating_duration_since(*at);
            let may_pass = age <= within && written_ago <= within;
            assert!(may_pass || age > within || instance.refuses(&token(id)), "{id}: {written_ago:?} {age:?}");
        }
        tokio::time::sleep(Duration::from_millis(7)).await;
    }
    assert!(instance.age().unwrap() > within, "nobody scans, so nobody may rely on it");
    assert_eq!(instance.replica.status().state.as_str(), "access_denied");
    assert!(instance.replica.lookup(&[token("an odd: id")], None).await.is_err(), "cannot be told by asking");
    assert!(instance.replica.lookup(&[token("plain")], None).await.is_ok());
    redis.cli(&["ACL", "SETUSER", "default", "+scan"]);
    for (id, _) in &written {
        instance.comes_to_refuse(&token(id)).await;
    }
    eventually("fresh", || instance.age().is_some_and(|age| age <= within)).await;
}

#[tokio::test]
async fn not_ready_before_the_keys_were_read_once() {
    let redis = RedisServer::start(&[]).await;
    redis.cli(&["ACL", "SETUSER", "default", "-scan"]);
    let instance = Instance::launch(adopting(redis.config()));
    eventually("named", || instance.replica.status().state.as_str() == "access_denied").await;
    let status = instance.replica.status();
    assert!(!status.ready && status.detail.unwrap().contains("scan"));
    assert_eq!(instance.age(), None);
    redis.cli(&["ACL", "SETUSER", "default", "+scan"]);
    instance.becomes_ready().await;
}

#[tokio::test]
async fn a_new_issuer_makes_the_view_stale_until_its_ids_are_read() {
    let redis = RedisServer::start(&[]).await;
    redis.cli(&["SET", "blacklist:j", "1", "EX", "100"]);
    let instance = Instance::launch(adopting(redis.config()));
    instance.becomes_ready().await;
    let third = Target::new(issuer("third"), Kind::Token, TargetId::new("j"));
    assert!(!instance.refuses(&third));
    let names = ["main", "other", "third"].map(|name| (issuer(name), LEEWAY));
    instance.replica.adopt_for(names.to_vec(), WITHIN);
    assert_eq!(instance.age(), Some(Duration::MAX));
    eventually("read", || instance.age() != Some(Duration::MAX)).await;
    assert!(instance.refuses(&third));
    instance.replica.adopt_for(names[..2].to_vec(), WITHIN);
    assert_ne!(instance.age(), Some(Duration::MAX), "fewer issuers, nothing to read");
}

/// Its key has ended with its life, so no revocation would be left to refuse it.
#[tokio::test(flavor = "multi_thread")]
async fn no_token_lives_on_after_its_expiry() {
    let (tokens, redis) = (Tokens::new(), RedisServer::start(&[]).await);
    let expired = tokens.with(serde_json::json!({"exp": tokens::now() - 2}));
    for (adopt, read, expected) in [
        ("", "replica", "ok"), // The leeway.
        (", adopt: \"blacklist:{jti}\"", "replica", "expired"),
        (", adopt: \"blacklist:{jti}\"", "lookup", "expired"),
    ] {
        let store = format!("revocation: {{store: redis, read: {read}, redis: {{url: \"{}\"{adopt}}}}}\n", redis.url());
        let doorward = Doorward::start(&tokens.config(&store)).await;
        let checks = Checks::connect(&doorward.check).await;
        assert_eq!(checks.check(get("/").token(&expired)).await.reason(), expected, "{adopt} {read}");
        assert_eq!(checks.check(get("/").token(&tokens.of("alice"))).await.reason(), "ok");
    }
}

#[tokio::test]
async fn keys_of_every_library_s_encoding_are_found() {
    const TOKEN: &str = "eyJhbGciOiJFUzI1NiJ9.eyJqdGkiOiJqIn0.AA";
    let hex = "0d".repeat(32);
    let digest = format!("sha256:{hex}");
    let each = |before: &str, names| AdoptedKeys::Each { before: before.to_owned(), after: String::new(), names };
    for (keys, write, id, asked) in [
        (each("", Names::TokenId), "SET j 1 EX 100".to_owned(), "j", true),
        (each("black list:", Names::TokenId), "SET \"black list:j\" 1 EX 100".to_owned(), "j", true),
        (each("{bl}:", Names::TokenId), "SET {bl}:j 1 EX 100".to_owned(), "j", true),
        (blacklist(), "SET \"\\xac\\xed\\x00\\x05t\\x00\\x0bblacklist:j\" 1 EX 100".to_owned(), "j", true),
        (each("bl:", Names::Token), format!("SET bl:{TOKEN} 1 EX 100"), "j", false),
        (each("bl:", Names::TokenSha256), format!("SET bl:{hex} 1 EX 100"), &*digest, true),
        (AdoptedKeys::Set("revoked".to_owned()), "SADD revoked j k".to_owned(), "j", true),
    ] {
        let redis = RedisServer::start(&[]).await;
        let issuers = vec![(issuer("main"), LEEWAY)];
        let config = RedisConfig { adopt: Some(Adopt { keys, within: WITHIN, issuers }), ..redis.config() };
        let instance = Instance::launch(config);
        instance.becomes_ready().await;
        redis.script(&format!("{write}\n"));
        let target = Target::new(issuer("main"), Kind::Token, TargetId::from_stored(id));
        if asked {
            assert!(instance.replica.lookup(std::slice::from_ref(&target), None).await.unwrap().is_some(), "{write}");
        }
        instance.comes_to_refuse(&target).await;
        let adopted = || instance.replica.stats().adopted.get();
        eventually("counted", || adopted() == if write.starts_with("SADD") { 2 } else { 1 }).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_refused_by_the_digest_of_its_text_and_a_template_without_matches_is_logged() {
    let (tokens, redis) = (Tokens::new(), RedisServer::start(&[]).await);
    let launch = async |adopt: &str| {
        let redis = format!("{{url: \"{}\", adopt: \"{adopt}\"}}", redis.url());
        Doorward::start(&tokens.config(&format!("revocation: {{store: redis, max_staleness: 2s, redis: {redis}}}\n")))
            .await
    };
    let alice = tokens.of("alice");
    let hex: Vec<_> =
        doorward::authz::api_key::digest_of(alice.as_bytes()).iter().map(|b| format!("{b:02x}")).collect();
    redis.cli(&["SET", &format!("bl:{}", hex.concat()), "1", "EX", "100"]);
    let doorward = launch("bl:{token_sha256}").await;
    let checks = Checks::connect(&doorward.check).await;
    assert_eq!(checks.check(get("/").token(&alice)).await.reason(), "revoked");
    assert_eq!(checks.check(get("/").token(&tokens.of("bob"))).await.reason(), "ok");
    assert_eq!(doorward.metric("doorward_adopted_keys").await, Some(1.0));
    let warning = "matches no key";
    assert!(!doorward.logged(warning));
    let slip = launch("black:{jti}").await;
    crate::support::eventually("it is told", || async { slip.logged(warning) }).await;
}
