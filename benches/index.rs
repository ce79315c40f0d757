//! The cost of the index of revocations: memory, lookups, and the effect of a burst of writes on
//! readers.
//!
//!     cargo bench --bench index

#![expect(clippy::print_stdout, clippy::cast_precision_loss, reason = "a program that prints figures")]

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use doorward::authz::claims::{IssuerName, Timestamp};
use doorward::authz::revocation::{Kind, Origin, Revocation, RevocationIndex, Target, TargetId, Watermark};

const MANY: u64 = 1_000_000;

fn main() {
    let now = doorward::clock::now();
    let small = RevocationIndex::new();
    fill(&small, 0..10, now);

    let before = resident();
    let index = RevocationIndex::new();
    let began = Instant::now();
    fill(&index, 0..MANY, now);
    let took = began.elapsed();
    println!(
        "memory       {:.1} bytes a token revocation at {MANY} (resident)",
        (resident() - before) as f64 / MANY as f64
    );
    println!("apply        {:.0} ns", took.as_nanos() as f64 / MANY as f64);

    let (few, many) = (find_ns(&small), find_ns(&index));
    println!("find         {few:.0} ns with 10, {many:.0} ns with {MANY} ({:.2} ×); six targets, no hit", many / few);

    let mut quiet: Vec<_> = (0..5).map(|_| p99(&index)).collect();
    let mut burst = Vec::new();
    for round in 0..5 {
        let done = AtomicBool::new(false);
        burst.push(std::thread::scope(|scope| {
            scope.spawn(|| {
                let first = MANY + round * 100_000;
                fill(&index, first..first + 100_000, now);
                done.store(true, Ordering::Relaxed);
            });
            p99(&index)
        }));
    }
    quiet.sort();
    burst.sort();
    println!(
        "p99          {:?} quiet, {:?} under a burst of 100,000 ({:.2} ×); medians of 5",
        quiet[2],
        burst[2],
        burst[2].as_secs_f64() / quiet[2].as_secs_f64()
    );

    let began = Instant::now();
    let gone =
        index.purge(now.plus(Duration::from_secs(2 * 3600)), Duration::ZERO, Duration::from_secs(2), Duration::ZERO);
    println!("purge        {gone} in {:?}", began.elapsed());
}

fn fill(index: &RevocationIndex, numbers: std::ops::Range<u64>, now: Timestamp) {
    for number in numbers {
        let revocation = Revocation {
            target: target(Kind::Token, number),
            watermark: Watermark::FOREVER,
            expires_at: now.plus(Duration::from_secs(3600)),
            origin: Origin::SignedOut,
            note: None,
        };
        index.apply(&revocation, Duration::ZERO);
    }
}

/// A UUID that differs in every digit from its neighbours.
fn target(kind: Kind, number: u64) -> Target {
    let (high, low) = (number.wrapping_mul(0x9e37_79b9_7f4a_7c15), number.wrapping_mul(0xc2b2_ae3d_27d4_eb4f));
    let hex = format!("{high:016x}{low:016x}");
    let id = format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]);
    let Some(issuer) = IssuerName::parse("main") else { unreachable!("a valid name") };
    Target::new(issuer, kind, TargetId::new(&id))
}

fn targets(number: u64) -> Vec<Target> {
    Kind::ALL.into_iter().map(|kind| target(kind, u64::MAX - number)).collect()
}

/// Nanoseconds for one look-up of a token's six targets: the median of 9 rounds.
fn find_ns(index: &RevocationIndex) -> f64 {
    let tokens: Vec<_> = (0..1000).map(targets).collect();
    let mut rounds: Vec<f64> = (0..9)
        .map(|_| {
            let began = Instant::now();
            for token in &tokens {
                assert!(index.find(token, None).is_none());
            }
            began.elapsed().as_nanos() as f64 / tokens.len() as f64
        })
        .collect();
    rounds.sort_by(f64::total_cmp);
    rounds[rounds.len() / 2]
}

/// The 99th percentile of single look-ups.
fn p99(index: &RevocationIndex) -> Duration {
    let tokens: Vec<_> = (0..1000).map(targets).collect();
    let mut times: Vec<_> = (0..20)
        .flat_map(|_| &tokens)
        .map(|token| {
            let began = Instant::now();
            assert!(index.find(token, None).is_none());
            began.elapsed()
        })
        .collect();
    times.sort();
    times[times.len() * 99 / 100]
}

fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or_default() * 4096
}
