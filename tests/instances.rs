//! Several instances, one store; and the state after a restart.

use std::time::Instant;

use futures_util::future::join_all;
use serde_json::json;

use crate::api::{admin_keys, revoke};
use crate::ledger::support::RedisServer;
use crate::support::doorward::Doorward;
use crate::support::eventually;
use crate::support::grpc::{Checks, ask, get};
use crate::support::tokens::Tokens;

fn shared(redis: &RedisServer) -> String {
    format!("revocation: {{store: redis, redis: {{url: \"{}\"}}}}\n", redis.url())
}

async fn reason(checks: &Checks, token: &str) -> String {
    checks.check(get("/").token(token)).await.reason().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sign_out_at_one_instance_is_refused_at_the_other() {
    let (tokens, redis) = (Tokens::new(), RedisServer::start(&[]).await);
    let config = tokens.config(&shared(&redis));
    let (here, there) = (Doorward::start(&config).await, Doorward::start(&config).await);
    let (checks_here, checks_there) = (Checks::connect(&here.check).await, Checks::connect(&there.check).await);
    let (alice, bob) = (tokens.of("alice"), tokens.of("bob"));
    assert_eq!(reason(&checks_there, &alice).await, "ok");
    assert_eq!(here.post("/logout", &alice).await.0, 204);
    let answered = Instant::now();
    assert_eq!(reason(&checks_here, &alice).await, "signed_out", "at once where it was recorded");
    eventually("the other instance refuses", || async { reason(&checks_there, &alice).await == "signed_out" }).await;
    println!("refused at the other instance {:?} after the answer", answered.elapsed());
    assert_eq!(reason(&checks_there, &bob).await, "ok");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_service_revokes_with_plain_redis_commands() {
    let (tokens, redis) = (Tokens::new(), RedisServer::start(&[]).await);
    let doorward = Doorward::start(&tokens.config(&shared(&redis))).await;
    let checks = Checks::connect(&doorward.check).await;
    let alice = tokens.with(serde_json::json!({"jti": "known-jti"}));
    assert_eq!(reason(&checks, &alice).await, "ok");
    let expires = crate::support::tokens::now() + 630;
    redis.script(&format!(
        "MULTI\nSET doorward:{{r}}:dev:token:known-jti \"* revoked\" EXAT {expires}\n\
         XADD doorward:{{r}}:log * issuer dev kind token id known-jti at * expires {expires}000 origin revoked reason \"\"\nEXEC\n"
    ));
    eventually("the revocation is followed", || async { reason(&checks, &alice).await == "revoked" }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_an_existing_service_writes_are_honoured_in_both_read_modes() {
    let (tokens, redis) = (Tokens::new(), RedisServer::start(&[]).await);
    let config = |read: &str| {
        let redis = format!("{{url: \"{}\", adopt: \"blacklist:{{jti}}\"}}", redis.url());
        tokens.config(&format!("revocation: {{store: redis, read: {read}, max_staleness: 5s, redis: {redis}}}\n"))
    };
    let before = tokens.with(serde_json::json!({"jti": "before"}));
    let after = tokens.with(serde_json::json!({"jti": "after"}));
    redis.cli(&["SET", "blacklist:before", "1", "EX", "600"]);
    let replica = Doorward::start(&config("replica")).await;
    let lookup = Doorward::start(&config("lookup")).await;
    for doorward in [&replica, &lookup] {
        let checks = Checks::connect(&doorward.check).await;
        assert_eq!(reason(&checks, &before).await, "revoked");
        assert_eq!(reason(&checks, &after).await, "ok");
    }
    redis.cli(&["SET", "blacklist:after", "1", "EX", "600"]);
    let written = Instant::now();
    assert_eq!(reason(&Checks::connect(&lookup.check).await, &after).await, "revoked", "asked each time");
    let checks = Checks::connect(&replica.check).await;
    eventually("the replica has read it", || async { reason(&checks, &after).await == "revoked" }).await;
    println!("read from the key of another service {:?} after its writing", written.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_forgets_nothing_with_redis() {
    let (tokens, redis) = (Tokens::new(), RedisServer::start(&[]).await);
    let config = tokens.config(&shared(&redis));
    let alice = tokens.of("alice");
    let mut first = Doorward::start(&config).await;
    assert_eq!(first.post("/logout", &alice).await.0, 204);
    assert_eq!(first.stop().await, Some(0));
    let second = Doorward::start(&config).await;
    assert_eq!(reason(&Checks::connect(&second.check).await, &alice).await, "signed_out");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_forgets_nothing_on_disk() {
    let tokens = Tokens::new();
    let config = tokens.config("revocation: {store: embedded, embedded: {path: DIR/revocations.redb}}\n");
    let alice = tokens.of("alice");
    let mut first = Doorward::start(&config).await;
    assert_eq!(first.post("/logout", &alice).await.0, 204);
    first.process.signal("KILL"); // An answered revocation is on disk, however the process ends.
    first.exit_code().await;
    let second = Doorward::launch_in(std::mem::replace(&mut first.dir, crate::support::TempDir::new()), &config).await;
    second.ready().await;
    assert_eq!(reason(&Checks::connect(&second.check).await, &alice).await, "signed_out");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_was_full_is_written_again() {
    let tokens = Tokens::new();
    let config = tokens.config("revocation: {store: embedded, embedded: {path: DIR/revocations.redb}}\n");
    let doorward = Doorward::start(&config).await;
    let limit = |bytes: &str| {
        let (pid, soft) = (doorward.process.0.id().to_string(), format!("--fsize={bytes}:"));
        let status = std::process::Command::new("prlimit").args(["--pid", &pid, &soft]).status();
        assert!(status.unwrap().success());
    };
    limit("4096"); // No file can be written beyond it, not even existing bytes.
    let (refused, stored) = (tokens.of("alice"), tokens.of("bob"));
    for _ in 0..3 {
        assert_eq!(doorward.post("/logout", &refused).await.0, 503);
    }
    let checks = Checks::connect(&doorward.check).await;
    assert_eq!(reason(&checks, &refused).await, "signed_out", "it holds here all the same");
    assert_eq!(doorward.metric("doorward_store_up").await, Some(0.0));
    doorward.logs("revocations cannot be stored").await;
    doorward.logs("revocations.redb").await;
    assert_eq!(doorward.metric("doorward_store_unsaved").await, Some(3.0));
    limit("unlimited");
    assert_eq!(doorward.post("/logout", &stored).await.0, 204);
    assert_eq!(doorward.metric("doorward_store_up").await, Some(1.0));
    // A refused write is retried: it survives the process, too.
    eventually("nothing waits", || async { doorward.metric("doorward_store_unsaved").await == Some(0.0) }).await;
    let doorward = killed_and_restarted(doorward, &config).await;
    let checks = Checks::connect(&doorward.check).await;
    for token in [&refused, &stored] {
        assert_eq!(reason(&checks, token).await, "signed_out");
    }
}

async fn killed_and_restarted(mut doorward: Doorward, config: &str) -> Doorward {
    doorward.process.signal("KILL");
    doorward.exit_code().await;
    let dir = std::mem::replace(&mut doorward.dir, crate::support::TempDir::new());
    let again = Doorward::launch_in(dir, config).await;
    again.ready().await;
    again
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_another_program_removes_or_replaces_is_noticed_before_an_answer() {
    use std::path::Path;
    type Act = fn(&Path);
    let tokens = Tokens::new();
    let config = tokens.config("revocation: {store: embedded, embedded: {path: DIR/revocations.redb}}\n");
    let acts: [(&str, Act); 6] = [
        ("removed", |file| std::fs::remove_file(file).unwrap()),
        ("moved", |file| std::fs::rename(file, file.with_extension("old")).unwrap()),
        ("replaced by an older copy", |file| std::fs::rename(file.with_extension("copy"), file).unwrap()),
        ("replaced by a link to an older copy", |file| {
            std::fs::remove_file(file).unwrap();
            std::os::unix::fs::symlink(file.with_extension("copy"), file).unwrap();
        }),
        ("written over by an older copy", |file| {
            std::fs::copy(file.with_extension("copy"), file).unwrap();
        }),
        ("replaced by a folder for a while", |file| {
            std::fs::remove_file(file).unwrap();
            std::fs::create_dir(file).unwrap();
            let file = file.to_owned();
            std::thread::spawn(move || {
                std::thread::sleep(std::time::Duration::from_secs(2));
                std::fs::remove_dir(file).unwrap();
            });
        }),
    ];
    for (name, act) in acts {
        let doorward = Doorward::start(&config).await;
        let file = doorward.dir.path().join("revocations.redb");
        let (before, after) = (tokens.of("alice"), tokens.of("bob"));
        std::fs::copy(&file, file.with_extension("copy")).unwrap();
        assert_eq!(doorward.post("/logout", &before).await.0, 204);
        act(&file);
        // The answer comes with the file or not at all.
        println!("{name}");
        eventually("it is stored", || async { doorward.post("/logout", &after).await.0 == 204 }).await;
        doorward.logs("by another program").await;
        eventually("all that is known is stored again", || async {
            doorward.metric("doorward_store_unsaved").await == Some(0.0)
        })
        .await;
        let doorward = killed_and_restarted(doorward, &config).await;
        let checks = Checks::connect(&doorward.check).await;
        assert_eq!(reason(&checks, &after).await, "signed_out", "{name}: acknowledged after it");
        assert_eq!(reason(&checks, &before).await, "signed_out", "{name}: acknowledged before it");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_written_over_or_emptied_during_sign_outs_loses_none_of_them() {
    use std::path::Path;
    type Act = fn(&Path);
    let tokens = Tokens::new();
    let config = tokens.config(&format!(
        "revocation: {{store: embedded, embedded: {{path: DIR/revocations.redb}}}}\n{}",
        admin_keys()
    ));
    let acts: [(&str, Act); 2] = [
        ("written over", |file| assert!(std::fs::copy(file.with_extension("copy"), file).is_ok())),
        ("emptied", |file| std::fs::write(file, "").unwrap()),
    ];
    for (name, act) in acts {
        let doorward = Doorward::start(&config).await;
        let file = doorward.dir.path().join("revocations.redb");
        std::fs::copy(&file, file.with_extension("copy")).unwrap();
        let stored = std::sync::Mutex::new(Vec::new());
        let stop = std::sync::atomic::AtomicBool::new(false);
        // So many that nearly each moment is one of a write.
        let work = async |worker: usize| {
            for sign_out in 0.. {
                if stop.load(std::sync::atomic::Ordering::Relaxed) {
                    break;
                }
                let user = format!("user-{worker}-{sign_out}");
                if revoke(&doorward, &json!({"kind": "user", "id": user})).await.status == 201 {
                    stored.lock().unwrap().push(user);
                }
            }
        };
        let noticed = || doorward.log.lock().unwrap().iter().filter(|line| line.contains("by another program")).count();
        let attack = async {
            for round in 0..3 {
                let before = stored.lock().unwrap().len();
                eventually("sign-outs are stored", || async { stored.lock().unwrap().len() > before + 20 }).await;
                let before = noticed();
                act(&file);
                println!("{name}, {round}");
                eventually("it is noticed", || async { noticed() > before }).await;
            }
            eventually("all that is known is stored again", || async {
                doorward.metric("doorward_store_unsaved").await == Some(0.0)
                    && doorward.metric("doorward_store_up").await == Some(1.0)
            })
            .await;
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
        };
        tokio::join!(join_all((0..16).map(work)), attack);
        let doorward = killed_and_restarted(doorward, &config).await;
        let checks = Checks::connect(&doorward.check).await;
        let stored = stored.into_inner().unwrap();
        println!("{name}: {} stored", stored.len());
        for user in stored.iter().step_by(stored.len() / 100) {
            assert_eq!(reason(&checks, &tokens.of(user)).await, "revoked", "{name}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_down_at_start_means_alive_not_ready_and_refused_until_it_is_back() {
    let tokens = Tokens::new();
    let mut redis = RedisServer::stopped(&[]);
    let doorward = Doorward::launch(&tokens.config(&shared(&redis))).await;
    let checks = Checks::connect(&doorward.check).await;
    let alice = tokens.of("alice");
    assert_eq!(doorward.get("/livez").await.0, 200);
    eventually("it says what is missing", || async {
        let (status, body) = doorward.get("/readyz").await;
        status == 503 && body.contains("revocations")
    })
    .await;
    let verdict = checks.check(get("/").token(&alice)).await;
    assert_eq!((verdict.status, verdict.reason()), (503, "revocations_stale"));
    assert_eq!(verdict.headers["retry-after"], "1");
    assert_eq!(doorward.post("/logout", &alice).await.0, 503, "what is not stored is no success");
    redis.run().await;
    let back = Instant::now();
    doorward.ready().await;
    println!("ready {:?} after redis", back.elapsed());
    assert_eq!(reason(&checks, &alice).await, "signed_out", "the refused sign-out holds here all the same");
    assert_eq!(doorward.post("/logout", &alice).await.0, 204);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_that_is_too_old_refuses_and_recovers() {
    let (tokens, redis) = (Tokens::new(), RedisServer::start(&[]).await);
    let more = format!(
        "revocation: {{store: redis, max_staleness: 2s, redis: {{url: \"{}\"}}}}\nrules:\n  - {{name: lenient, match: {{path_prefix: /lenient}}, on_stale: allow}}\n  - {{name: public, match: {{path_prefix: /public}}, access: public}}\n  - {{name: trial, match: {{path: /bye}}, access: sign_out, enforce: false}}\n",
        redis.url()
    );
    let doorward = Doorward::start(&tokens.config(&more)).await;
    let checks = Checks::connect(&doorward.check).await;
    let (alice, bob) = (tokens.of("alice"), tokens.of("bob"));
    redis.signal("-STOP");
    eventually("stale", || async { reason(&checks, &bob).await == "revocations_stale" }).await;
    let lenient = checks.check(get("/lenient").token(&bob)).await;
    assert!(lenient.allowed(), "{lenient:?}");
    assert_eq!(lenient.headers["x-doorward-stale"], "true");
    assert!(checks.check(get("/public")).await.allowed());
    assert_eq!(doorward.get("/readyz").await.0, 200, "answers say so, route by route");
    for (query, status) in [
        ("fresh", 503),
        ("fresh=", 503),
        ("fresh=1", 503),
        ("a&fresh=true", 503),
        ("fresh=false", 200),
        ("fresh=0", 200),
    ] {
        assert_eq!(doorward.get(&format!("/readyz?{query}")).await.0, status, "{query}");
    }
    let trial = checks.check(ask("POST", "/bye").token(&tokens.of("carol"))).await;
    assert_eq!((trial.status, trial.reason(), &*trial.headers["x-user-id"]), (200, "store_unavailable", "carol"));
    assert_eq!(doorward.post("/logout", &alice).await.0, 503);
    let refused = checks.check(get("/lenient").token(&alice)).await;
    assert_eq!(refused.reason(), "signed_out", "a refused write holds in this instance at once");
    redis.signal("-CONT");
    eventually("fresh again", || async { reason(&checks, &bob).await == "ok" }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unfit_store_is_named_by_readyz_and_the_log_and_heals_without_a_restart() {
    let evicting = ["--maxmemory", "100mb", "--maxmemory-policy", "volatile-lru"];
    for (options, state, detail, cure) in [
        (&evicting[..], "may_evict", "volatile-lru", &["CONFIG", "SET", "maxmemory-policy", "noeviction"][..]),
        (&["--requirepass", "right"], "access_denied", "NOAUTH", &["-a", "right", "CONFIG", "SET", "requirepass", ""]),
        (&["--replicaof", "127.0.0.1", "1"], "not_primary", "slave", &["REPLICAOF", "NO", "ONE"]),
    ] {
        let (tokens, redis) = (Tokens::new(), RedisServer::start(options).await);
        let doorward = Doorward::launch(&tokens.config(&shared(&redis))).await;
        eventually("named by /readyz", || async {
            let (status, body) = doorward.get("/readyz").await;
            status == 503 && body.contains(state) && body.contains(detail)
        })
        .await;
        doorward.logs(state).await;
        redis.cli(cure);
        doorward.ready().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_loss_of_the_store_and_its_repair_are_metrics() {
    let (tokens, redis) = (Tokens::new(), RedisServer::start(&[]).await);
    let doorward = Doorward::start(&tokens.config(&shared(&redis))).await;
    for user in ["alice", "bob"] {
        assert_eq!(doorward.post("/logout", &tokens.of(user)).await.0, 204);
    }
    let metric = async |name: &str| doorward.metric(&format!("doorward_store_{name}")).await;
    assert_eq!((metric("gaps_total").await, metric("reseeded_total").await), (Some(0.0), Some(0.0)));
    redis.cli(&["FLUSHALL"]);
    eventually("given back", || async { metric("reseeded_total").await == Some(2.0) }).await;
    assert_eq!((metric("gaps_total").await, metric("unsaved").await), (Some(1.0), Some(0.0)));
    eventually("nothing waits", || async { metric("reseed_waiting").await == Some(0.0) }).await;
}
