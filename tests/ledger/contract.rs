//! The data in Redis is a public contract: read here with redis-cli alone, and written by it.

use std::time::Duration;

use doorward::authz::claims::Timestamp;
use doorward::authz::revocation::{Kind, Note, Origin, Revocation, Watermark};
use doorward::sources::ledger::{Position, RedisConfig};

use super::support::*;

#[tokio::test]
async fn an_append_writes_the_key_its_life_and_the_log_entry() {
    let redis = RedisServer::start(&[]).await;
    let instance = Instance::start(&redis).await;
    let expires_at = Timestamp::from_millis(now().as_millis() / 1000 * 1000 + 3_600_500);
    let signed_out = Revocation { expires_at, ..sign_out("j-1") };
    let at = now();
    let revoked = Revocation {
        expires_at,
        origin: Origin::Revoked,
        note: Note::new(at, "on-call", "lost phone"),
        ..revoke_user("ann@example", at)
    };
    let first = instance.replica.revoke(vec![signed_out]).await.unwrap();
    let second = instance.replica.revoke(vec![revoked]).await.unwrap();
    assert!(first < second);

    let (expires, seconds) = (expires_at.as_millis(), expires_at.as_secs() + 1);
    let mut keys: Vec<_> = redis.cli(&["KEYS", "*"]).lines().map(str::to_owned).collect();
    // Leases and the secret of streams are not a part of the contract.
    keys.retain(|key| !key.starts_with("doorward:{r}:instance") && key != "doorward:{r}:streams");
    keys.sort();
    assert_eq!(
        keys,
        [
            "doorward:{r}:clock",
            "doorward:{r}:leases",
            "doorward:{r}:log",
            "doorward:{r}:main:token:j-1",
            "doorward:{r}:main:user:ann@example",
            "doorward:{r}:meta",
            "doorward:{r}:retentions",
            "doorward:{r}:server"
        ]
    );
    assert_eq!(redis.cli(&["GET", "doorward:{r}:main:token:j-1"]), "* signed_out");
    assert_eq!(redis.cli(&["EXPIRETIME", "doorward:{r}:main:token:j-1"]), seconds.to_string(), "rounded up");
    assert_eq!(redis.cli(&["GET", "doorward:{r}:main:user:ann@example"]), format!("{} revoked", at.as_millis()));
    let log = redis.cli(&["XRANGE", "doorward:{r}:log", "-", "+"]);
    let expected = format!(
        "{first}\nissuer\nmain\nkind\ntoken\nid\nj-1\nat\n*\nexpires\n{expires}\norigin\nsigned_out\nreason\n\n\
         {second}\nissuer\nmain\nkind\nuser\nid\nann@example\nat\n{}\nexpires\n{expires}\norigin\nrevoked\nreason\nlost phone\n\
         by\non-call\nsince\n{}",
        at.as_millis(),
        at.as_millis()
    );
    assert_eq!(log, expected);
}

#[tokio::test]
async fn what_has_expired_is_written() {
    let redis = RedisServer::start(&[]).await;
    let instance = Instance::start(&redis).await;
    let expired = Revocation { expires_at: now().minus(Duration::from_secs(60)), ..sign_out("old") };
    instance.replica.revoke(vec![expired]).await.unwrap();
    assert_eq!(redis.cli(&["XLEN", "doorward:{r}:log"]), "1", "other clocks may be behind");
    let ancient = Revocation { expires_at: Timestamp::default(), ..sign_out("ancient") };
    instance.replica.revoke(vec![ancient]).await.unwrap();
    assert_eq!(redis.cli(&["XLEN", "doorward:{r}:log"]), "2");
    assert_eq!(redis.cli(&["EXISTS", "doorward:{r}:main:token:old", "doorward:{r}:main:token:ancient"]), "0");
}

#[tokio::test]
async fn a_writer_with_nothing_but_redis_cli_is_honoured() {
    let redis = RedisServer::start(&[]).await;
    let instance = Instance::start(&redis).await;
    let expires = now().as_secs() + 600;
    redis.script(&format!(
        "MULTI\n\
         SET doorward:{{r}}:main:token:by-hand \"* revoked\" EXAT {expires}\n\
         XADD doorward:{{r}}:log * issuer main kind token id by-hand at * expires {expires}000 origin revoked reason test\n\
         EXEC\n"
    ));
    instance.comes_to_refuse(&token("by-hand")).await;
    // In seconds, with as little as possible, and with nonsense between.
    let log = "XADD doorward:{r}:log *";
    redis.script(&format!(
        "{log} issuer main kind session id s expires {expires}\n{log} what ever\n{log} issuer main kind user id u\n"
    ));
    instance.comes_to_refuse(&target(Kind::Session, "s")).await;
    instance.comes_to_refuse(&target(Kind::User, "u")).await;
    assert_eq!(instance.replica.stats().unreadable.get(), 1);
    let hit = instance.replica.lookup(&[token("by-hand")], None).await.unwrap().unwrap();
    assert_eq!((hit.origin, hit.kind), (Origin::Revoked, Kind::Token));
    assert_eq!(instance.replica.lookup(&[token("another"), target(Kind::User, "u")], None).await.unwrap(), None);
}

/// Where `tests/run.sh` puts Python's redis client.
const PYTHON: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/.tools/python/bin/python");
const REVOKE_PY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/ledger/revoke.py");

#[tokio::test]
async fn a_python_service_with_its_redis_client_is_honoured() {
    let has_client = |python: &&str| {
        let import = std::process::Command::new(python).args(["-c", "import redis"]).output();
        import.is_ok_and(|output| output.status.success())
    };
    let Some(python) = [PYTHON, "python3"].into_iter().find(|python| has_client(python)) else {
        println!("SKIPPED: Python's redis client is not there; tests/run.sh installs it into .tools/python");
        return;
    };
    let redis = RedisServer::start(&[]).await;
    let instance = Instance::start(&redis).await;
    let run = |arguments: &[&str]| {
        let mut command = std::process::Command::new(python);
        let output = command.args([REVOKE_PY, &redis.port.to_string(), "0", "main"]).args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().parse::<Position>().unwrap()
    };
    let expires = (now().as_secs() + 600).to_string();
    run(&["by-python", &expires]);
    let last = run(&["user", "ann@example", &expires]);
    instance.replica.applied().wait_for(|applied| *applied >= last).await.unwrap();
    assert!(instance.refuses(&token("by-python")) && instance.refuses(&target(Kind::User, "ann@example")));
    assert!(!instance.refuses(&token("another")));
    let known = instance.replica.index().revocations().find(|known| known.target == token("by-python")).unwrap();
    assert_eq!(known.expires_at.as_secs().to_string(), expires);
    let (by_token, by_user) = (token("by-python"), target(Kind::User, "ann@example"));
    for target in [by_token, by_user] {
        let issued_at = Some(now().minus(Duration::from_secs(60)));
        let hit = instance.replica.lookup(std::slice::from_ref(&target), issued_at).await.unwrap().unwrap();
        assert_eq!((hit.origin, hit.kind), (Origin::Revoked, target.kind));
    }
    // Doorward's own entry equals that of such a service.
    instance.replica.revoke(vec![Revocation { origin: Origin::Revoked, ..sign_out("by-us") }]).await.unwrap();
    assert_eq!(
        redis.cli(&["GET", "doorward:{r}:main:token:by-us"]),
        redis.cli(&["GET", "doorward:{r}:main:token:by-python"])
    );
}

#[tokio::test]
async fn an_older_instant_never_overwrites_and_a_life_is_never_shortened() {
    let redis = RedisServer::start(&[]).await;
    let instance = Instance::start(&redis).await;
    let key = "doorward:{r}:main:user:u";
    let (long, short) = (now().as_secs() + 7200, now().as_secs() + 60);
    let later = now();
    let earlier = later.minus(Duration::from_secs(100));
    let append = async |at: Timestamp, expires: i64, origin| {
        let expires_at = Timestamp::from_secs(expires);
        instance.replica.revoke(vec![Revocation { expires_at, origin, ..revoke_user("u", at) }]).await.unwrap();
        (redis.cli(&["GET", key]), redis.cli(&["EXPIRETIME", key]))
    };
    let (later_text, long_text) = (format!("{} signed_out", later.as_millis()), long.to_string());
    assert_eq!(append(later, short, Origin::SignedOut).await, (later_text.clone(), short.to_string()));
    assert_eq!(
        append(earlier, long, Origin::Revoked).await,
        (later_text, long_text.clone()),
        "life grows, instant stays"
    );
    let newest = Timestamp::from_millis(later.as_millis() + 1);
    assert_eq!(append(newest, short, Origin::Revoked).await, (format!("{} revoked", newest.as_millis()), long_text));
    // A foreign key without a time to live, or with an unreadable value.
    redis.cli(&["PERSIST", key]);
    let last = Timestamp::from_millis(later.as_millis() + 2);
    assert_eq!(append(last, short, Origin::Revoked).await, (format!("{} revoked", last.as_millis()), "-1".to_owned()));
    redis.cli(&["SET", key, "gibberish", "EX", "5000"]);
    let (value, life) = append(Timestamp::from_millis(later.as_millis() + 3), short, Origin::Revoked).await;
    assert!(value.ends_with(" revoked") && life.parse::<i64>().unwrap() > short, "{value} {life}");
    // Both in one append: the later one wins in either order.
    let (a, b) =
        (revoke_user("both", later), Revocation { watermark: Watermark::FOREVER, ..revoke_user("both", later) });
    instance.replica.revoke(vec![b, a]).await.unwrap();
    assert_eq!(redis.cli(&["GET", "doorward:{r}:main:user:both"]), "* revoked");
}

#[tokio::test]
async fn concurrent_writers_of_one_key_leave_the_latest() {
    let redis = RedisServer::start(&[]).await;
    let (one, two) = (Instance::start(&redis).await, Instance::start(&redis).await);
    let base = now().as_millis();
    let writers = (0..100).map(|step| {
        let instance = if step % 2 == 0 { &one } else { &two };
        instance.replica.revoke(vec![revoke_user("hot", Timestamp::from_millis(base + step))])
    });
    let mut set = Vec::new();
    for writer in writers {
        set.push(writer);
    }
    for result in join_all(set).await {
        result.unwrap();
    }
    assert_eq!(redis.cli(&["GET", "doorward:{r}:main:user:hot"]), format!("{} revoked", base + 99));
    assert_eq!(redis.cli(&["XLEN", "doorward:{r}:log"]), "100");
}

#[tokio::test]
async fn a_repeated_sign_out_does_not_make_the_log_grow() {
    let redis = RedisServer::start(&[]).await;
    let instance = Instance::start(&redis).await;
    let revocation = sign_out("again");
    for _ in 0..20 {
        instance.replica.revoke(vec![revocation.clone()]).await.unwrap();
    }
    assert_eq!(redis.cli(&["XLEN", "doorward:{r}:log"]), "1");
}

/// Longer than an instance must have watched the clock of Redis before it trims.
const WATCHED: Duration = Duration::from_secs(7);

#[tokio::test]
async fn the_log_is_trimmed_by_age() {
    let redis = RedisServer::start(&["--stream-node-max-entries", "10"]).await;
    redis.has_been_even_for(Duration::from_secs(10 * 24 * 3600));
    let instance = Instance::start(&redis).await;
    tokio::time::sleep(WATCHED).await;
    for step in 1..=100 {
        redis.cli(&[
            "XADD",
            "doorward:{r}:log",
            &format!("{step}-0"),
            "issuer",
            "main",
            "kind",
            "token",
            "id",
            "ancient",
        ]);
    }
    instance.replica.revoke(vec![sign_out("new")]).await.unwrap();
    assert_eq!(redis.cli(&["XLEN", "doorward:{r}:log"]), "1");
    instance.comes_to_refuse(&token("new")).await;
}

/// The writer must ignore the age of the entry that `id` names: another instance needs it.
#[tokio::test]
async fn the_log_is_kept_for_instances_that_need_it_longer() {
    let redis = RedisServer::start(&["--stream-node-max-entries", "10"]).await;
    let hour = Duration::from_secs(3600);
    redis.has_been_even_for(hour * 24);
    let retaining = |retention| Instance::launch(RedisConfig { retention, ..redis.config() });
    let (brief, long) = (retaining(hour), retaining(hour * 3));
    for instance in [&brief, &long] {
        instance.becomes_ready().await;
    }
    tokio::time::sleep(WATCHED).await;
    let ends = now().plus(hour).as_millis();
    let fill = |age: Duration| {
        let at = now().minus(age).as_millis();
        let add =
            |n: i64| format!("XADD doorward:{{r}}:log {}-0 issuer main kind token id x at * expires {ends}\n", at + n);
        redis.script(&(0..100).map(add).collect::<String>());
    };
    fill(hour * 7); // Older than any instance needs, twice over.
    fill(hour * 4);
    brief.replica.revoke(vec![sign_out("one")]).await.unwrap();
    assert_eq!(redis.cli(&["XLEN", "doorward:{r}:log"]), "101");
    // A stopped instance may return.
    long.end().await;
    brief.replica.revoke(vec![sign_out("two")]).await.unwrap();
    assert_eq!(redis.cli(&["XLEN", "doorward:{r}:log"]), "102");
    // Until no entry that it has read can matter to it.
    redis.cli(&["ZADD", "doorward:{r}:retentions", "1", "10800000"]);
    brief.replica.revoke(vec![sign_out("three")]).await.unwrap();
    assert_eq!(redis.cli(&["XLEN", "doorward:{r}:log"]), "3");
    // A configuration that was reloaded with a longer `max_lifetime`.
    brief.replica.retain_for(hour * 5, Duration::ZERO);
    eventually("noted", || redis.cli(&["ZSCORE", "doorward:{r}:retentions", "18000000"]).starts_with('1')).await;
}

/// Spring templates without a `StringRedisSerializer`: JSON puts texts into quotes, Java serialises them.
#[tokio::test]
async fn texts_that_templates_serialised_are_read() {
    let redis = RedisServer::start(&[]).await;
    let instance = Instance::start(&redis).await;
    instance.replica.expect_issuers(vec![token("j").issuer]);
    let expires = now().as_secs() + 600;
    let json = |text: &str| format!("\"\\\"{text}\\\"\"");
    let java = |text: &str| format!("\"\\xac\\xed\\x00\\x05t\\x00\\x{:02x}{text}\"", text.len());
    let entry = |form: &dyn Fn(&str) -> String, id: &str, at: &str| {
        let fields = [("issuer", "main"), ("kind", "token"), ("id", id), ("at", at), ("origin", "signed_out")];
        let fields: Vec<_> = fields.iter().map(|(name, value)| format!("{} {}", form(name), form(value))).collect();
        redis.script(&format!(
            "SET \"doorward:{{r}}:main:token:{id}\" {} EX 600\nXADD doorward:{{r}}:log * {} expires {expires}\n",
            form(&format!("{at} signed_out")),
            fields.join(" ")
        ))
    };
    entry(&json, "quoted", "*");
    entry(&java, "serialised", "*");
    entry(&|text| format!("\"{text}\""), "unreadable", "yesterday");
    for id in ["quoted", "serialised", "unreadable"] {
        instance.comes_to_refuse(&token(id)).await;
        assert!(instance.replica.lookup(&[token(id)], None).await.unwrap().is_some(), "{id}: one answer in both modes");
    }
    let hit = instance.replica.lookup(&[token("quoted")], None).await.unwrap().unwrap();
    assert_eq!(hit.origin, Origin::SignedOut, "the value was read, too");
    let stats = instance.replica.stats();
    assert_eq!((stats.unreadable.get(), stats.foreign.get()), (0, 0));
    redis.script("XADD doorward:{r}:log * issuer mian kind user id u\n");
    eventually("an unknown issuer is counted", || stats.foreign.get() == 1).await;
}

/// A key alone applies to lookups only.
#[tokio::test]
async fn keys_without_an_entry_are_counted() {
    let redis = RedisServer::start(&[]).await;
    let writer = Instance::start(&redis).await;
    writer.replica.revoke(vec![sign_out("whole")]).await.unwrap();
    redis.script(
        "SET doorward:{r}:main:token:alone * EX 600\nSET doorward:{r}:main:jti:misspelled * EX 600\n\
         SET \"\\\"doorward:{r}:main:token:quoted\\\"\" * EX 600\nSET other:main:token:x 1\n",
    );
    let instance = Instance::start(&redis).await;
    let stats = instance.replica.stats();
    let count = || stats.foreign.get();
    eventually("they are counted", || count() == 3).await;
    assert!(instance.refuses(&token("whole")) && !instance.refuses(&token("alone")));
    assert!(instance.replica.lookup(&[token("alone")], None).await.unwrap().is_some());
}
