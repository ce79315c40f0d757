//! The effect of an abuse on the process and on a good client beside it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::support::PATIENCE;
use crate::support::doorward::Doorward;
use crate::support::grpc::{Checks, Verdict, get};
use crate::support::tokens::Tokens;

/// Memory that an abuse may cost, in bytes.
const MEMORY: u64 = 64 << 20;
/// The duration of an attack.
pub const LASTS: Duration = Duration::from_secs(2);

/// A running Doorward and a good client on a separate thread.
pub struct Target {
    pub doorward: Doorward,
    pub tokens: Tokens,
    calm: Duration,
}

impl Target {
    /// `limits` are the members of that section.
    pub async fn start(limits: &str) -> Self {
        Self::listening("check: \"127.0.0.1:0\"", limits).await
    }

    pub async fn listening(check: &str, limits: &str) -> Self {
        let tokens = Tokens::new();
        let config = tokens.config(&format!(
            "listen: {{{check}, http: \"127.0.0.1:0\"}}\nlimits: {{{limits}}}\nrules: [{{name: public, match: {{path_prefix: /public}}, access: public}}]\n"
        ));
        let doorward = Doorward::start(&config).await;
        let (calm, _) = client(&doorward, &tokens, Arc::new(AtomicBool::new(true)), 400).await;
        Self { doorward, tokens, calm }
    }

    /// Runs an abuse on a separate thread, and a good client beside it; prints the effect.
    ///
    /// The client sees no error, memory stays within bounds, and the process keeps running.
    pub async fn under<F: Future<Output = String>>(&self, what: &str, abuse: impl FnOnce() -> F + Send + 'static) {
        let before = self.memory();
        let over = Arc::new(AtomicBool::new(false));
        let abusing = {
            let over = over.clone();
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                let did = runtime.block_on(abuse());
                over.store(true, Ordering::SeqCst);
                did
            })
        };
        let peak = async {
            let mut peak = before;
            while !over.load(Ordering::SeqCst) {
                peak = peak.max(self.memory());
                tokio::time::sleep(Duration::from_millis(5)).await;
                if abusing.is_finished() {
                    break; // The process may have panicked.
                }
            }
            over.store(true, Ordering::SeqCst);
            peak.max(self.memory())
        };
        let ((p99, asked), peak) = tokio::join!(client(&self.doorward, &self.tokens, over.clone(), 50), peak);
        let did = abusing.join().unwrap();
        let grown = peak.saturating_sub(before);
        eprintln!(
            "abuse: {what}: {did}; +{:.1} MB at most; good client: {asked} checks, no error, p99 {p99:.1?} ({:.1?} in calm)",
            mb(grown),
            self.calm
        );
        assert!(grown < MEMORY, "{what}: +{:.1} MB", mb(grown));
        assert!(p99 < Duration::from_secs(10), "{what}: p99 {p99:?}");
        assert_eq!(self.doorward.get("/livez").await.0, 200, "{what}");
        let log = self.doorward.log.lock().unwrap().clone();
        // One of h2's `debug_assert`s treats a connection that ends in the middle of its streams as a bug
        // (hyperium/h2#907); releases do not have it.
        let is_ours = |line: &&String| line.contains("panicked") && !line.contains("proto/streams/counts.rs");
        let panicked = log.iter().find(is_ours);
        assert_eq!(panicked, None, "{what}");
    }

    /// Resident memory in bytes.
    pub fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.doorward.process.0.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("it lives");
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }

    pub async fn connections(&self, listener: &str, result: &str) -> f64 {
        let series = format!("doorward_connections_total{{listener=\"{listener}\",result=\"{result}\"}}");
        self.doorward.metric(&series).await.unwrap_or_default()
    }
}

#[expect(clippy::cast_precision_loss, reason = "a figure to be read")]
fn mb(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// Asks until `over` is set, at least `least` times; each answer is right. Returns the p99 and the number.
async fn client(doorward: &Doorward, tokens: &Tokens, over: Arc<AtomicBool>, least: usize) -> (Duration, usize) {
    let (check, good) = (doorward.check.clone(), tokens.of("alice"));
    let asking = tokio::task::spawn_blocking(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (began, checks) = (Instant::now(), Checks::connect(&check).await);
            let mut took = Vec::new();
            while took.len() < least || !over.load(Ordering::SeqCst) {
                let asked = Instant::now();
                let verdict = tokio::time::timeout(PATIENCE, checks.check(get("/").token(&good))).await;
                assert!(verdict.as_ref().is_ok_and(Verdict::allowed), "{verdict:?}");
                took.push(asked.elapsed());
                assert!(began.elapsed() < PATIENCE * 2, "the abuse does not end");
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            took.sort();
            (took[took.len() * 99 / 100], took.len())
        })
    });
    asking.await.unwrap()
}
