//! Tests with their own clock: expiry, reuse and races, on SQLite.

use super::*;

const DAY: i64 = 24 * 3600 * 1000;

fn at(millis: i64) -> Timestamp {
    Timestamp::from_millis(1_763_800_000_000 + millis)
}

async fn with_alice() -> (Store, User) {
    let store = Store::open("sqlite::memory:").await.unwrap();
    let alice = User {
        login: "alice".to_owned(),
        email: "alice@example.com".to_owned(),
        password_hash: "hash".to_owned(),
        permissions: "a b".to_owned(),
    };
    store.add_user(&alice).await.unwrap();
    (store, alice)
}

async fn outcome(store: &Store, hash: &str, next: &str, now: Timestamp) -> &'static str {
    match store.rotate(hash, next, now).await.unwrap() {
        Rotation::Rotated(_) => "rotated",
        Rotation::Reused { .. } => "reused",
        Rotation::Invalid => "invalid",
    }
}

#[tokio::test]
async fn a_refresh_token_expires_when_idle_and_with_its_family() {
    let (store, alice) = with_alice().await;
    assert!(store.begin_family(&alice, "idle", "i0", at(0)).await.unwrap());
    assert_eq!(outcome(&store, "i0", "i1", at(14 * DAY)).await, "invalid");

    assert!(store.begin_family(&alice, "busy", "b0", at(0)).await.unwrap());
    for turn in 0..9 {
        let (hash, next) = (format!("b{turn}"), format!("b{}", turn + 1));
        assert_eq!(outcome(&store, &hash, &next, at((turn + 1) * 10 * DAY - 1)).await, "rotated", "{turn}");
    }
    assert_eq!(outcome(&store, "b9", "b10", at(90 * DAY)).await, "invalid", "however busy it was");
}

#[tokio::test]
async fn reuse_ends_the_family_and_is_reported_while_an_access_token_may_be_valid() {
    let (store, alice) = with_alice().await;
    assert!(store.begin_family(&alice, "sid", "t0", at(0)).await.unwrap());
    assert_eq!(outcome(&store, "t0", "t1", at(1000)).await, "rotated");
    assert_eq!(outcome(&store, "t0", "x", at(2000)).await, "reused");
    assert_eq!(outcome(&store, "t1", "x", at(3000)).await, "invalid");
    assert_eq!(outcome(&store, "t0", "x", at(301_000)).await, "reused", "told again, had it failed before");
    assert_eq!(outcome(&store, "t0", "x", at(302_000)).await, "invalid", "nothing is left to revoke");
    assert_eq!(outcome(&store, "never seen", "x", at(0)).await, "invalid");
}

#[tokio::test]
async fn an_old_password_opens_no_session_after_its_change() {
    let (store, read_before) = with_alice().await;
    assert!(store.begin_family(&read_before, "sid", "t0", at(0)).await.unwrap());
    assert!(store.set_password(&read_before, "other", at(1)).await.unwrap());
    assert!(!store.begin_family(&read_before, "late", "l0", at(2)).await.unwrap());
    assert!(!store.set_password(&read_before, "third", at(2)).await.unwrap());
    for _ in 0..2 {
        assert_eq!(outcome(&store, "t0", "t1", at(3)).await, "invalid", "families end with the password");
    }
}

#[tokio::test]
async fn a_user_has_so_many_sessions_and_the_oldest_goes() {
    let (store, alice) = with_alice().await;
    for number in 0..=FAMILIES {
        let (sid, hash) = (format!("s{number}"), format!("t{number}"));
        assert!(store.begin_family(&alice, &sid, &hash, at(number * 1000)).await.unwrap());
    }
    assert_eq!(outcome(&store, "t0", "x", at(60_000)).await, "invalid");
    assert_eq!(outcome(&store, "t1", "y", at(60_000)).await, "rotated");
}

#[tokio::test]
async fn a_family_keeps_a_bounded_number_of_used_tokens() {
    let (store, alice) = with_alice().await;
    assert!(store.begin_family(&alice, "sid", "t0", at(0)).await.unwrap());
    let turns = USED + 10;
    for turn in 0..turns {
        let (hash, next) = (format!("t{turn}"), format!("t{}", turn + 1));
        assert_eq!(outcome(&store, &hash, &next, at(turn * 1000)).await, "rotated", "{turn}");
    }
    assert_eq!(outcome(&store, "t0", "x", at(turns * 1000)).await, "invalid");
    assert_eq!(outcome(&store, "t20", "x", at(turns * 1000)).await, "reused");
}
