//! The entries that the log keeps when the store's clock was wrong: their ids come from that clock.

use std::time::Duration;

use doorward::authz::revocation::Revocation;
use doorward::sources::ledger::RedisConfig;

use crate::ledger::support::{Instance, RedisServer, eventually, now, sign_out, token};

/// Longer than an instance must have watched the clock before it drops anything.
const WATCHED: Duration = Duration::from_secs(7);
const RETENTION: Duration = Duration::from_secs(60);
const DAY: i64 = 24 * 3_600;
const A_DAY: Duration = Duration::from_secs(24 * 3_600);

/// So that a trim by an estimate is exact.
const SMALL_NODES: &[&str] = &["--stream-node-max-entries", "10"];

fn retaining(redis: &RedisServer, retention: Duration) -> Instance {
    Instance::launch(RedisConfig { retention, leeway: Duration::from_secs(1), ..redis.config() })
}

/// The entry of a token with nearly the longest lifetime.
fn brief(id: &str) -> Revocation {
    Revocation { expires_at: now().plus(RETENTION), ..sign_out(id) }
}

fn length(redis: &RedisServer) -> usize {
    redis.cli(&["XLEN", "doorward:{r}:log"]).parse().unwrap()
}

/// How far ahead of this machine's clock the note says that Redis's clock was set; `None`: no note.
fn set_ahead(redis: &RedisServer) -> Option<i64> {
    let since: i64 = redis.cli(&["ZSCORE", "doorward:{r}:clock", "since"]).parse().ok()?;
    Some(since / 1_000 - now().as_secs())
}

async fn revoke(instance: &Instance, ids: &[String]) {
    instance.replica.revoke(ids.iter().map(|id| brief(id)).collect()).await.unwrap();
}

fn ids(name: &str) -> Vec<String> {
    (0..100).map(|n| format!("{name}-{n}")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_live_on_when_the_clock_of_the_store_is_put_right() {
    let redis = RedisServer::start_with_clock(SMALL_NODES).await;
    redis.step_clock("-1h");
    redis.has_been_even_for(A_DAY);
    let first = retaining(&redis, RETENTION);
    first.becomes_ready().await;
    revoke(&first, &["gone".to_owned()]).await;
    revoke(&first, &ids("more")).await;
    tokio::time::sleep(WATCHED).await;
    redis.step_clock("+0");
    // By their ids all of them are an hour old, and the clock has been right for a moment.
    revoke(&first, &["at-once".to_owned()]).await;
    assert_eq!(length(&redis), 102);
    eventually("it is noted", || set_ahead(&redis).is_some_and(|ahead| ahead > -60)).await;
    let second = retaining(&redis, RETENTION);
    second.becomes_ready().await;
    assert!(second.refuses(&token("gone")), "a new instance knows it");
    tokio::time::sleep(WATCHED).await;
    for (instance, id) in [(&first, "by-the-first"), (&second, "by-the-second")] {
        revoke(instance, &[id.to_owned()]).await;
    }
    assert_eq!(length(&redis), 104);
    let third = retaining(&redis, RETENTION);
    third.becomes_ready().await;
    assert!(third.refuses(&token("gone")));
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_live_on_when_the_clock_is_put_right_while_nobody_watches() {
    let redis = RedisServer::start_with_clock(SMALL_NODES).await;
    redis.step_clock("-1h");
    redis.has_been_even_for(A_DAY);
    let first = retaining(&redis, RETENTION);
    first.becomes_ready().await;
    revoke(&first, &["gone".to_owned()]).await;
    revoke(&first, &ids("more")).await;
    first.end().await;
    redis.step_clock("+0");
    let second = retaining(&redis, RETENTION);
    second.becomes_ready().await;
    assert!(second.refuses(&token("gone")));
    eventually("it is noted", || set_ahead(&redis).is_some_and(|ahead| ahead > -60)).await;
    tokio::time::sleep(WATCHED).await;
    revoke(&second, &["after".to_owned()]).await;
    assert_eq!(length(&redis), 102);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_instance_is_kept_for_whatever_the_clock_of_the_store_shows_meanwhile() {
    let redis = RedisServer::start_with_clock(SMALL_NODES).await;
    redis.has_been_even_for(A_DAY);
    let hour = Duration::from_secs(3_600);
    let (long, short) = (retaining(&redis, hour * 3), retaining(&redis, RETENTION));
    for instance in [&long, &short] {
        instance.becomes_ready().await;
    }
    let noted = || redis.cli(&["ZSCORE", "doorward:{r}:retentions", "10800000"]).parse::<f64>().is_ok();
    long.replica.revoke(vec![sign_out("gone")]).await.unwrap();
    eventually("it is noted", noted).await;
    long.end().await;
    redis.step_clock("+3d");
    eventually("the jump is noted", || set_ahead(&redis).is_some_and(|ahead| ahead > 2 * DAY)).await;
    tokio::time::sleep(WATCHED).await;
    revoke(&short, &ids("ahead")).await;
    redis.step_clock("+0");
    eventually("and back", || set_ahead(&redis).is_some_and(|ahead| ahead < DAY)).await;
    tokio::time::sleep(WATCHED).await;
    revoke(&short, &ids("right")).await;
    assert!(noted(), "what the stopped instance needs");
    assert_eq!(length(&redis), 201);
}

/// Another writer's entry, whose end lies far ahead.
#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_is_written_again_when_its_entry_may_have_been_trimmed() {
    let redis = RedisServer::start(&[]).await;
    let id = |age: i64| format!("{}-0", now().minus(Duration::from_secs(age.unsigned_abs())).as_millis());
    let ends = ((now().as_secs() + 30 * DAY) * 1_000).to_string();
    let add = |position: &str, session: &str| {
        let fields = ["issuer", "main", "kind", "token", "id", session, "at", "*", "expires", &ends];
        redis.cli(&[&["XADD", "doorward:{r}:log", position][..], &fields].concat());
    };
    add(&id(3_600), "old");
    add(&id(2), "young");
    let instance = retaining(&redis, RETENTION);
    instance.becomes_ready().await;
    let again = |id: &str| Revocation { origin: doorward::authz::revocation::Origin::Revoked, ..brief(id) };
    let (old, young) = (again("old"), again("young"));
    for revocation in [&young, &old] {
        assert!(instance.refuses(&revocation.target));
    }
    instance.replica.revoke(vec![young.clone()]).await.unwrap();
    assert_eq!(length(&redis), 2, "it is there, and will be for as long as it was asked for");
    let position = instance.replica.revoke(vec![old.clone()]).await.unwrap();
    assert_eq!(length(&redis), 3);
    assert_eq!(redis.cli(&["EXISTS", "doorward:{r}:main:token:old"]), "1");
    instance.replica.applied().wait_for(|applied| *applied >= position).await.unwrap();
    instance.replica.revoke(vec![old]).await.unwrap();
    assert_eq!(length(&redis), 3, "now it is there");
}
