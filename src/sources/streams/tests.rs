//! Streams that are opened, revoked and ended.

use std::sync::atomic::AtomicBool;

use super::index::{Link, List};
use super::*;
use crate::authz::revocation::{Origin, RevocationIndex, TargetId};
use crate::authz::status_list::StatusReference;

const NEVER: Timestamp = Timestamp::from_secs(1_000_000);

fn issuer() -> IssuerName {
    IssuerName::parse("main").unwrap()
}

fn target(kind: Kind, id: &str) -> Target {
    Target::new(issuer(), kind, TargetId::new(id))
}

fn facts(token: &str, user: &str, iat: i64) -> StreamFacts {
    let targets = [target(Kind::Token, token), target(Kind::User, user), target(Kind::Key, "k")];
    let issued_at = Some(Timestamp::from_secs(iat));
    StreamFacts { issuer: issuer(), key: None, issued_at, expires_at: NEVER, targets: targets.into(), status: None }
}

fn revocation(target: Target, watermark: Watermark) -> Revocation {
    Revocation { target, watermark, expires_at: NEVER, origin: Origin::SignedOut, note: None }
}

fn ended(stream: &LiveStream) -> Option<Cause> {
    match stream.poll_ended(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(ended) => Some(ended.cause),
        Poll::Pending => None,
    }
}

fn open(streams: &Arc<LiveStreams>, token: &str, user: &str, iat: i64) -> LiveStream {
    streams.open(&facts(token, user, iat), NEVER, None).unwrap()
}

#[test]
fn a_revocation_ends_exactly_the_streams_that_it_hits() {
    let streams = Arc::<LiveStreams>::default();
    let old = open(&streams, "t1", "alice", 100);
    let new = open(&streams, "t2", "alice", 200);
    let bob = open(&streams, "t3", "bob", 100);
    let until = Watermark::at(Timestamp::from_secs(150));
    assert_eq!(streams.revoke(&revocation(target(Kind::User, "alice"), until)), 1);
    assert_eq!((ended(&old), ended(&new), ended(&bob)), (Some(Cause::SignedOut), None, None));
    assert_eq!(streams.revoke(&revocation(target(Kind::Session, "alice"), Watermark::FOREVER)), 0);
    assert_eq!(streams.revoke(&revocation(target(Kind::User, "alice"), until)), 0, "once");
    assert_eq!((streams.open_count(), streams.ending_count()), (2, 1));
    let mark = streams.mark();
    assert!(!streams.is_carried_out(mark), "not before it was sent");
    drop(old);
    assert!(streams.is_carried_out(mark));
    let first = revocation(target(Kind::User, "alice"), until);
    assert_eq!((streams.take_ended(&first), streams.take_ended(&first)), (1, 0), "a receipt tells it once");
    assert_eq!(streams.revoke(&revocation(Target::issuer(issuer()), Watermark::FOREVER)), 2);
    assert_eq!((ended(&new), ended(&bob)), (Some(Cause::SignedOut), Some(Cause::SignedOut)));
}

#[test]
fn slots_are_used_again_and_lists_stay_whole() {
    let streams = Arc::<LiveStreams>::default();
    let mut live: Vec<LiveStream> = Vec::new();
    for round in 0..2_000_usize {
        let user = format!("user-{}", round % 7);
        live.push(open(&streams, &format!("t{round}"), &user, 100));
        if round % 3 != 0 {
            live.swap_remove(round * 31 % live.len());
        }
    }
    assert_eq!(streams.open_count(), live.len());
    let mut hit = 0;
    for user in 0..7 {
        hit += streams.revoke(&revocation(target(Kind::User, &format!("user-{user}")), Watermark::FOREVER));
    }
    assert_eq!(hit, live.len());
    assert!(live.iter().all(|stream| ended(stream).is_some()));
    drop(live);
    assert_eq!((streams.open_count(), streams.ending_count()), (0, 0));
    let inner = streams.lock();
    assert_eq!(
        (inner.index.slots.len(), inner.index.lists.len(), inner.index.places.len(), inner.index.seconds.len()),
        (0, 0, 0, 0)
    );
}

#[test]
fn time_ends_what_has_expired_and_what_is_too_stale() {
    let streams = Arc::<LiveStreams>::default();
    let at = Timestamp::from_secs;
    let soon = streams.open(&facts("a", "u", 1), at(10), None).unwrap();
    let strict = streams.open(&facts("b", "u", 1), at(20), Some(Duration::from_secs(2))).unwrap();
    let lenient = streams.open(&facts("c", "u", 1), at(20), Some(Duration::from_secs(9))).unwrap();
    streams.sweep(Timestamp::from_millis(9_999), Some(Duration::from_secs(2)));
    assert_eq!(streams.open_count(), 3);
    streams.sweep(at(10), Some(Duration::from_secs(2)));
    assert_eq!((ended(&soon), ended(&strict)), (Some(Cause::Expired), None));
    streams.sweep(at(11), Some(Duration::from_millis(2_001)));
    assert_eq!((ended(&strict), ended(&lenient)), (Some(Cause::Stale), None));
    streams.sweep(at(11), None);
    assert_eq!(ended(&lenient), Some(Cause::Stale));
}

#[test]
fn keys_and_issuers_go_with_their_streams() {
    let streams = Arc::<LiveStreams>::default();
    let by = |key: u8| {
        let facts = StreamFacts { key: Some([key; 16]), ..facts("t", "u", 1) };
        streams.open(&facts, NEVER, None).unwrap()
    };
    let (first, second, vouched) = (by(1), by(2), open(&streams, "a", "u", 1));
    streams.keep_keys(&IssuerName::parse("other").unwrap(), |_| false);
    streams.keep_keys(&issuer(), |key| key == [1; 16]);
    assert_eq!((ended(&first), ended(&second), ended(&vouched)), (None, Some(Cause::KeyWithdrawn), None));
    streams.keep_keys(&issuer(), |_| false);
    assert_eq!((ended(&first), ended(&vouched)), (Some(Cause::KeyWithdrawn), None));
    streams.remove_issuer(&issuer());
    assert_eq!(ended(&vouched), Some(Cause::IssuerRemoved));
}

#[test]
fn a_status_list_ends_the_streams_at_its_places() {
    let (streams, uri) = (Arc::<LiveStreams>::default(), Arc::<str>::from("https://idp.test/1"));
    let at = |index: u32, stale_after| {
        let status = Some(StatusReference { uri: uri.clone(), index });
        streams.open(&StreamFacts { status, ..facts("t", "u", 1) }, NEVER, stale_after).unwrap()
    };
    let [revoked, suspended, strict] = [1, 2, 3].map(|index| at(index, Some(Duration::from_secs(9))));
    let (lenient, without) = (at(3, None), open(&streams, "a", "u", 1));
    assert_eq!(streams.status_lists(), [(issuer(), uri.clone())]);
    streams.check_status_list(&issuer(), &uri, |index| match index {
        1 => Some(Cause::Revoked),
        2 => Some(Cause::Suspended),
        _ => None,
    });
    let causes = [&revoked, &suspended, &strict, &lenient, &without].map(ended);
    assert_eq!(causes, [Some(Cause::Revoked), Some(Cause::Suspended), None, None, None]);
    let renamed = IssuerName::parse("new").unwrap();
    streams.rename_issuer(&issuer(), &renamed);
    streams.end_stale_status_list(&renamed, &uri);
    assert_eq!([&strict, &lenient, &without].map(ended), [Some(Cause::Stale), None, None]);
    streams.check_status_list(&renamed, &uri, |_| Some(Cause::Revoked));
    assert_eq!(streams.status_lists(), []);
}

#[test]
fn a_stream_is_found_under_every_name_of_its_issuer() {
    let (streams, new) = (Arc::<LiveStreams>::default(), IssuerName::parse("new").unwrap());
    let facts = |user: &str| StreamFacts { key: Some([1; 16]), ..facts("t", user, 1) };
    let [alice, bob, carol] = ["alice", "bob", "carol"].map(|user| streams.open(&facts(user), NEVER, None).unwrap());
    streams.rename_issuer(&issuer(), &new);
    streams.rename_issuer(&issuer(), &new);
    let renamed = |user: &str| Target::new(new.clone(), Kind::User, TargetId::new(user));
    let both = [target(Kind::User, "alice"), renamed("alice")];
    assert_eq!(streams.count(&both), 1, "once, by whatever name");
    assert_eq!(streams.revoke(&revocation(renamed("alice"), Watermark::FOREVER)), 1);
    assert_eq!(streams.revoke(&revocation(target(Kind::User, "bob"), Watermark::FOREVER)), 1);
    assert_eq!((ended(&alice), ended(&bob)), (Some(Cause::SignedOut), Some(Cause::SignedOut)));
    streams.keep_keys(&new, |_| false);
    assert_eq!(ended(&carol), Some(Cause::KeyWithdrawn));
    drop((alice, bob, carol));
    let inner = streams.lock();
    assert_eq!((inner.index.slots.len(), inner.index.lists.len(), inner.index.keys.len()), (0, 0, 0));
}

#[test]
fn streams_without_an_end_count_and_end_with_the_process() {
    let streams = Arc::<LiveStreams>::default();
    streams.limit(2);
    let (kept, other) = (streams.keep().unwrap(), open(&streams, "a", "u", 1));
    assert_eq!((streams.open_count(), streams.keep().err()), (2, Some(Cause::Crowded)));
    streams.remove_issuer(&issuer());
    streams.sweep(NEVER, None);
    assert_eq!((ended(&kept), ended(&other)), (None, Some(Cause::IssuerRemoved)));
    assert_eq!(streams.drain(1), 0);
    assert_eq!(ended(&kept), Some(Cause::Draining));
}

/// The second of the two finds the first: the stream that opens, or the revocation that is applied.
#[test]
fn a_stream_that_opens_in_the_moment_of_its_revocation_ends() {
    for round in 0..1_000 {
        let (streams, index) = (Arc::<LiveStreams>::default(), RevocationIndex::new());
        let (facts, go) = (facts(&format!("t{round}"), "u", 1), AtomicBool::new(false));
        let entry = revocation(target(Kind::User, "u"), Watermark::FOREVER);
        let stream = std::thread::scope(|scope| {
            scope.spawn(|| {
                while !go.load(Ordering::Acquire) {
                    std::hint::spin_loop();
                }
                index.apply(&entry, Duration::from_secs(1));
                streams.revoke(&entry);
            });
            go.store(true, Ordering::Release);
            let stream = streams.open(&facts, NEVER, None).unwrap();
            index.find(&*facts.targets, facts.issued_at).is_none().then_some(stream)
        });
        assert!(stream.is_none_or(|stream| ended(&stream).is_some()), "round {round}");
    }
}

#[test]
fn ten_thousand_streams_are_small_and_end_fast() {
    let streams = Arc::<LiveStreams>::default();
    let live: Vec<_> = (0..10_000).map(|at| open(&streams, &format!("{at:032x}"), &format!("user-{at}"), 1)).collect();
    let inner = streams.lock();
    let links: usize = inner.index.slots.iter().map(|slot| slot.links.capacity() * size_of::<Link>()).sum();
    let held = inner.index.slots.capacity() * size_of::<Slot>()
        + links
        + inner.index.lists.capacity() * (size_of::<List>() + 48)
        + inner.index.places.capacity() * 5
        + live.len() * (size_of::<Signal>() + 16);
    drop(inner);
    println!("{} bytes for each stream in the index", held / live.len());
    assert!(held / live.len() <= 1024, "{}", held / live.len());
    let began = Instant::now();
    assert_eq!(streams.revoke(&revocation(Target::issuer(issuer()), Watermark::FOREVER)), live.len());
    println!("all of an issuer's ended in {:?}", began.elapsed());
    assert!(live.iter().all(|stream| ended(stream).is_some()));
}
