//! The cost of status lists: their size, and the time to make, to read and to look one up.
//!
//!     cargo bench --bench status_lists

#![expect(clippy::print_stdout, clippy::cast_precision_loss, reason = "a program that prints figures")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use doorward::authz::claims::{IssuerName, Timestamp};
use doorward::authz::revocation::{Kind, Origin, Revocation, RevocationIndex, Target, TargetId, Watermark};
use doorward::authz::signing::SigningKey;
use doorward::authz::status_list::StatusList;
use doorward::authz::status_publisher::StatusPublisher;

const MILLION: u32 = 1_000_000;

fn main() {
    println!("a list of {MILLION} tokens, one bit each");
    println!(
        "{:>10} {:>12} {:>10} {:>10} {:>10} {:>10}",
        "revoked", "lst, bytes", "make", "compress", "read", "look up"
    );
    for revoked in [0, 1_000, 10_000, 100_000, 500_000] {
        let began = Instant::now();
        let list = StatusList::of_invalid(MILLION, (0..revoked).map(|at| scatter(at) % MILLION));
        let made = began.elapsed();
        let began = Instant::now();
        let claim = list.to_claim();
        let compressed = began.elapsed();
        let began = Instant::now();
        let read = StatusList::parse(&claim, 2_097_152);
        let parsed = began.elapsed();
        let Ok(read) = read else { return println!("the list cannot be read") };
        let began = Instant::now();
        let hits =
            (0..MILLION).filter(|at| read.value(black_box(scatter(*at) % MILLION)).is_some_and(|value| value.0 != 0));
        let hits = black_box(hits.count());
        let looked = began.elapsed().as_nanos() as f64 / f64::from(MILLION);
        let bytes = claim["lst"].as_str().map_or(0, str::len);
        println!("{revoked:>10} {bytes:>12} {made:>10.1?} {compressed:>10.1?} {parsed:>10.1?} {looked:>7.1} ns");
        black_box(hits);
    }

    let Ok(key) = SigningKey::from_pem(include_str!("../src/config/testdata/sign-p256.pem")) else { return };
    let Some(issuer) = IssuerName::parse("main") else { return };
    let (ttl, lifetime) = (Duration::from_secs(60), Duration::from_secs(600));
    let uri = "https://gateway.example.com/status-lists/main".to_owned();
    let publisher = StatusPublisher { uri, names: vec![issuer.clone()], key, entries: 1 << 24, ttl, lifetime };
    println!("\na published list of {} indexes, signed", publisher.entries);
    println!("{:>10} {:>12} {:>10} {:>24}", "revoked", "JWT, bytes", "make", "refuses another token");
    let (index, now) = (RevocationIndex::new(), doorward::clock::now());
    let mut filled = 0;
    for revoked in [0, 1_000, 10_000, 100_000, MILLION] {
        (filled..revoked).for_each(|at| apply(&index, &issuer, at, now));
        filled = revoked;
        let began = Instant::now();
        let text = publisher.publish(&index, now).unwrap_or_default();
        let made = began.elapsed();
        let others = (0..100_000).map(|at| publisher.index_of(&TargetId::new(&format!("other-{at}"))));
        let Some(list) = list_of(&text) else { return println!("the list cannot be read") };
        let hits = others.filter(|at| list.value(*at).is_some_and(|value| value.0 != 0)).count();
        println!("{revoked:>10} {:>12} {made:>10.1?} {:>22.4} %", text.len(), hits as f64 / 1_000.0);
    }
}

fn list_of(text: &str) -> Option<StatusList> {
    use base64::Engine;
    let payload = text.split('.').nth(1)?;
    let payload = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(payload).ok()?;
    let claims: serde_json::Value = serde_json::from_slice(&payload).ok()?;
    StatusList::parse(&claims["status_list"], 2_097_152).ok()
}

fn apply(index: &RevocationIndex, issuer: &IssuerName, at: u32, now: Timestamp) {
    let id = TargetId::new(&format!("{:032x}", u128::from(scatter(at)) << 64 | u128::from(at)));
    let target = Target::new(issuer.clone(), Kind::Token, id);
    let expires_at = now.plus(Duration::from_secs(3600));
    let entry = Revocation { target, watermark: Watermark::FOREVER, expires_at, origin: Origin::Revoked, note: None };
    index.apply(&entry, Duration::ZERO);
}

/// A permutation that looks random.
const fn scatter(at: u32) -> u32 {
    let mixed = (at ^ (at >> 16)).wrapping_mul(0x7feb_352d);
    let mixed = (mixed ^ (mixed >> 15)).wrapping_mul(0x846c_a68b);
    mixed ^ (mixed >> 16)
}
