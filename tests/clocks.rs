//! Wall clocks that are wrong, of instances and of the store.

mod fleets;
mod leads;
mod steps;

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
