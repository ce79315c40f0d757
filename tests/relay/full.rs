//! Stores that are full: `maxmemory` is reached, and every write is refused.

use doorward::sources::relay::RelayState;

use super::{Running, length};
use crate::ledger::support::{Instance, RedisServer, eventually, sign_out};
use crate::support::proxy::Proxy;

fn fill_up(redis: &RedisServer) {
    redis.cli(&["CONFIG", "SET", "maxmemory", "1"]);
}

fn make_room(redis: &RedisServer) {
    redis.cli(&["CONFIG", "SET", "maxmemory", "0"]);
}

async fn write(redis: &RedisServer, name: &str, count: usize) {
    let writer = Instance::start(redis).await;
    writer.replica.revoke((0..count).map(|n| sign_out(&format!("{name}-{n}"))).collect()).await.unwrap();
    writer.end().await;
}

/// The end of the relay's lease in a store, by its clock; `None` if it is not there.
fn lease_ends(redis: &RedisServer) -> Option<i64> {
    let key = redis.cli(&["--scan", "--pattern", "doorward:{r}:relay-owner:*"]);
    let ends = redis.cli(&["PEXPIRETIME", &key]).parse().unwrap();
    Some(ends).filter(|ends| *ends > 0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_that_is_full_sends_what_it_has() {
    let (eu, us) = (RedisServer::start(&[]).await, RedisServer::start(&[]).await);
    write(&eu, "before", 30).await;
    fill_up(&eu);
    let one = Running::start(eu.url(), us.url());
    eventually("all is copied", || length(&us) == 30).await;
    one.becomes(RelayState::Following).await;
    assert!(one.relay.status().is_up);
    // One process copies at a time, by a lease in the other store; in the own one again when that has room.
    assert!(lease_ends(&us).is_some() && lease_ends(&eu).is_none());
    let other = Running::start(eu.url(), us.url());
    eventually("the other one does not copy", || {
        other.relay.status().owner.is_none() && one.relay.status().owner.is_some()
    })
    .await;
    make_room(&eu);
    eventually("the lease is in the own store", || lease_ends(&eu).is_some()).await;
    write(&eu, "after", 1).await;
    // While the lease moves, each of the two may copy it.
    eventually("the next is copied", || length(&us) >= 31).await;
    one.end().await;
    other.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_that_becomes_full_keeps_its_relay() {
    let (eu, us) = (RedisServer::start(&[]).await, RedisServer::start(&[]).await);
    let wire = Proxy::start(us.port);
    let relay = Running::start(eu.url(), format!("redis://127.0.0.1:{}", wire.port));
    relay.becomes(RelayState::Following).await;
    wire.refuse();
    relay.becomes(RelayState::Unreachable).await;
    write(&eu, "backlog", 300).await;
    fill_up(&eu);
    let ends = lease_ends(&eu).unwrap();
    eventually("the lease is renewed", || lease_ends(&eu).is_some_and(|later| later > ends)).await;
    wire.heal();
    eventually("what was written before is copied", || length(&us) == 300).await;
    relay.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_region_that_is_full_gets_all_later_and_the_others_go_on() {
    let (eu, us) = (RedisServer::start(&[]).await, RedisServer::start(&[]).await);
    let ap = RedisServer::start(&[]).await;
    let (full, other) = (Running::start(eu.url(), us.url()), Running::start(eu.url(), ap.url()));
    for relay in [&full, &other] {
        relay.becomes(RelayState::Following).await;
    }
    fill_up(&us);
    write(&eu, "held", 700).await;
    full.becomes(RelayState::Refused).await;
    let problem = full.relay.status().problem.unwrap();
    assert!(problem.starts_with(&format!("127.0.0.1:{}: ", us.port)) && problem.contains("maxmemory"), "{problem}");
    eventually("the other region has all", || length(&ap) == 700).await;
    assert_eq!((other.state(), length(&us)), (RelayState::Following, 0));
    make_room(&us);
    eventually("nothing is lost", || length(&us) == 700).await;
    full.becomes(RelayState::Following).await;
    full.end().await;
    other.end().await;
}
