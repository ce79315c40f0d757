//! Wall clocks that are wrong, of instances and of the store.

mod expired;
mod fleets;
mod kept;
mod leads;
mod leases;
mod steps;
mod undated;
mod unlearnt;
mod unread;
mod unreported;

use std::process::Command;
use std::time::Duration;

use doorward::clock::Steady;

use crate::ledger::support::RedisServer;
use crate::support::doorward::Doorward;
use crate::support::grpc::{Checks, get};
use crate::support::tokens::{Tokens, now};

#[tokio::test(flavor = "multi_thread")]
async fn a_test_steps_the_wall_clock_of_an_instance_and_no_other() {
    let tokens = Tokens::new();
    let (doorward, clock) = Doorward::start_with_clock(&tokens.config("")).await;
    let checks = Checks::connect(&doorward.check).await;
    let token = tokens.of("alice"); // Expires in 10 minutes.
    for (offset, reason) in [("+20m", "expired"), ("+0", "ok"), ("-20m", "not_yet_valid"), ("+0", "ok")] {
        clock.step(offset);
        let denied = checks.check(get("/").token(&token)).await.reason().to_owned();
        assert_eq!(denied, reason, "{offset}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_test_steps_the_clock_of_redis_across_restarts() {
    let mut redis = RedisServer::start_with_clock(&[]).await;
    let ahead = |redis: &RedisServer| {
        let time = redis.cli(&["TIME"]);
        time.lines().next().unwrap().parse::<i64>().unwrap() - now()
    };
    assert!((-5..=1).contains(&ahead(&redis)));
    redis.step_clock("+1h");
    assert!((3595..=3601).contains(&ahead(&redis)));
    redis.kill();
    redis.run().await;
    assert!((3595..=3601).contains(&ahead(&redis)));
    let id = redis.cli(&["XADD", "log", "*", "a", "b"]);
    let millis: i64 = id.split('-').next().unwrap().parse().unwrap();
    assert!(millis / 1000 - now() > 3595, "ids are of this clock");
    redis.step_clock("-1h");
    assert!((-3605..=-3599).contains(&ahead(&redis)));
}

/// A day's sleep of the machine, as a time namespace shows it: CLOCK_BOOTTIME is a day further than CLOCK_MONOTONIC.
#[test]
fn freshness_is_counted_by_the_clock_that_counts_sleep() {
    const DAY: Duration = Duration::from_secs(24 * 3600);
    let mut slept = Command::new("unshare");
    slept.args(["--map-root-user", "--time", "--boottime", &DAY.as_secs().to_string()]);
    slept.arg(std::env::current_exe().unwrap());
    slept.args(["--exact", "--ignored", "--nocapture", "clocks::shows_the_steady_clock"]);
    let shown = slept.output().unwrap();
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned() + &String::from_utf8_lossy(&shown.stderr);
    let Some((_, millis)) = shown.split_once("steady: ") else {
        assert!(shown.contains("unshare"), "{shown}");
        println!("skipped: no time namespace here: {shown}");
        return;
    };
    let millis = millis.split_whitespace().next().unwrap().parse().unwrap();
    let ahead = Duration::from_millis(millis).saturating_sub(Steady::now().uptime());
    assert!(ahead.abs_diff(DAY) < Duration::from_secs(600), "{ahead:?}");
}

#[test]
#[ignore = "run by the test above"]
fn shows_the_steady_clock() {
    println!("steady: {}", Steady::now().uptime().as_millis());
}
