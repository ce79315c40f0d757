//! Keys of the store that are removed, lowered or replaced by an older copy while the rest stays as it is.

use super::issuers::{X, Y, all_are_refused, changes, config, in_redis, next, restarted};
use super::lost::{NOTES, named, noted};
use super::{is_held, revoked_of};
use crate::ledger::support::RedisServer;
use crate::support::doorward::Doorward;
use crate::support::eventually;
use crate::support::tokens::{Tokens, now};

/// Copies keys beside them, or back from there: as a tool does that restores a backup key by key.
const COPY: &str = "for _, key in ipairs(redis.call('KEYS', 'copy:doorward:*')) do redis.call('DEL', key) end \
                    for _, key in ipairs(redis.call('KEYS', ARGV[1])) do redis.call('COPY', key, 'copy:' .. key) end";
const RESTORE: &str = "for _, key in ipairs(redis.call('KEYS', ARGV[1])) do redis.call('DEL', key) end \
                       for _, key in ipairs(redis.call('KEYS', 'copy:' .. ARGV[1])) do \
                       redis.call('COPY', key, string.sub(key, 6)) end";

fn run(redis: &RedisServer, script: &str, keys: &str) {
    assert_eq!(redis.cli(&["EVAL", script, "0", keys]), "");
}

/// The server and the epoch stay the same; an instance that runs has read the note of one that ended.
#[tokio::test(flavor = "multi_thread")]
async fn notes_outlive_an_older_copy_of_any_key() {
    for keys in ["doorward:*", NOTES, "doorward:{r}:log", "doorward:{r}:meta"] {
        let (tokens, redis) = (Tokens::new(), RedisServer::start(&[]).await);
        let store = in_redis(&redis);
        let other = format!("name: base, issuer: \"{Y}\"");
        let base = Doorward::start(&config(&tokens, &store, &[&other])).await;
        run(&redis, COPY, "doorward:*");
        let mut first = Doorward::start(&config(&tokens, &store, &[&named("main", "")])).await;
        let dead = revoked_of(&tokens, &first, "main", X).await;
        assert_eq!(first.stop().await, Some(0));
        changes(&base, &next(&base, &tokens, &store, &[&other]), &[], &[]).await; // It reads the notes.
        for _ in 0..3 {
            run(&redis, RESTORE, keys);
            changes(&base, &next(&base, &tokens, &store, &[&other]), &[], &[]).await; // It reads them, as every 30 s.
            eventually("the note is put back", async || noted(&redis).contains("\"main\"")).await;
        }
        is_held(&Doorward::launch(&config(&tokens, &store, &[&named("new", "")])).await, "formerly: [main]", &dead[0])
            .await;
    }
}

/// With or without other notes beside it, and whoever runs.
#[tokio::test(flavor = "multi_thread")]
async fn an_operator_drops_a_note() {
    for beside in [true, false] {
        let (tokens, redis) = (Tokens::new(), RedisServer::start(&[]).await);
        let store = in_redis(&redis);
        let base = format!("name: base, issuer: \"{Y}\"");
        let _base = if beside { Some(Doorward::start(&config(&tokens, &store, &[&base])).await) } else { None };
        let first = Doorward::start(&config(&tokens, &store, &[&named("main", "")])).await;
        let dead = revoked_of(&tokens, &first, "main", X).await;
        let new = config(&tokens, &store, &[&named("new", "")]);
        let (second, third) = (Doorward::launch(&new).await, Doorward::launch(&new).await);
        for held in [&second, &third] {
            is_held(held, "formerly: [main]", &dead[0]).await;
        }
        first.process.signal("KILL");
        let note = noted(&redis).lines().find(|note| note.contains("\"main\"")).unwrap().to_owned();
        assert_eq!(redis.cli(&["ZADD", NOTES, "0", &note]), "0");
        for ready in [&second, &third] {
            ready.ready().await;
        }
    }
}

/// The process that accepted the loss runs on: what it dropped does not come back with a copy of before.
#[tokio::test(flavor = "multi_thread")]
async fn an_accepted_loss_outlives_an_older_copy_of_the_store() {
    let (tokens, redis) = (Tokens::new(), RedisServer::start(&[]).await);
    let store = in_redis(&redis);
    let doorward = Doorward::start(&config(&tokens, &store, &[&named("main", "")])).await;
    revoked_of(&tokens, &doorward, "main", X).await;
    run(&redis, COPY, "doorward:*");
    let new = next(&doorward, &tokens, &store, &[&named("new", "")]);
    changes(&doorward, &new.replace("{store:", "{accept_loss: true, store:"), &[], &[]).await;
    let score = |note: &str| redis.cli(&["ZSCORE", NOTES, note]);
    let main = noted(&redis).lines().find(|note| note.contains("\"main\"")).unwrap_or_default().to_owned();
    eventually("it is dropped", async || score(&main).starts_with('-')).await;
    changes(&doorward, &new, &[], &[]).await;
    run(&redis, RESTORE, "doorward:*");
    changes(&doorward, &new, &[], &[]).await;
    eventually("it is dropped again", async || score(&main).starts_with('-')).await;
    Doorward::launch(&config(&tokens, &store, &[&named("new", "")])).await.ready().await;
}

/// Margins, retentions and lengths of leases that instances noted which ended.
#[tokio::test(flavor = "multi_thread")]
async fn values_that_are_removed_or_lowered_are_put_back() {
    let (tokens, redis) = (Tokens::new(), RedisServer::start(&[]).await);
    let _base = Doorward::start(&config(&tokens, &in_redis(&redis), &[&format!("name: base, issuer: \"{Y}\"")])).await;
    let in_an_hour = ((now() + 3_500) * 1000).to_string();
    let values = [
        ("leads", "main", "300000"),
        ("dated", "main", &*in_an_hour),
        ("retentions", "402000", &*in_an_hour),
        ("leases", "41000", &*in_an_hour),
    ];
    let key = |name: &str| format!("doorward:{{r}}:{name}");
    for (name, member, score) in values {
        redis.cli(&["ZADD", &key(name), score, member]);
    }
    let reads = || {
        let stats = redis.cli(&["INFO", "commandstats"]);
        let calls = stats.split("cmdstat_zrange:calls=").nth(1).and_then(|rest| rest.split(',').next()?.parse().ok());
        calls.unwrap_or(0_u64)
    };
    let before = reads();
    eventually("they are read", async || reads() > before + 40).await;
    for (name, member, score) in values {
        let key = key(name);
        for damage in [&["DEL", &*key][..], &["ZREM", &key, member], &["ZADD", &key, "1000", member]] {
            redis.cli(damage);
            eventually(&damage.join(" "), async || redis.cli(&["ZSCORE", &key, member]) == score).await;
        }
    }
}

/// An entry that is put back ends later than it did, and so must what stands under the name of before.
#[tokio::test(flavor = "multi_thread")]
async fn a_name_can_be_taken_back_after_a_repair() {
    const LOG: &str = "doorward:{r}:log";
    let (tokens, redis) = (Tokens::new(), RedisServer::start(&[]).await);
    let store = in_redis(&redis);
    let mut doorward = Doorward::start(&config(&tokens, &store, &[&named("new", ", formerly: [main]")])).await;
    let dead = revoked_of(&tokens, &doorward, "new", X).await;
    let log = redis.cli(&["XRANGE", LOG, "-", "+"]);
    let lines: Vec<_> = log.lines().collect();
    let of_new = lines.windows(3).filter(|lines| lines[1..] == ["issuer", "new"]).map(|lines| lines[0]);
    let of_new: Vec<_> = of_new.collect();
    assert_eq!(of_new.len(), dead.len(), "{log}");
    let written = now();
    eventually("time has passed", async || now() > written + 3).await;
    redis.cli(&[&["XDEL", LOG][..], &of_new].concat());
    doorward.logs("revocation store is complete again").await;
    restarted(&mut doorward, &config(&tokens, &store, &[&named("main", "")])).await;
    all_are_refused(&doorward, &dead).await;
}
