//! The counts of the soak's oracle, and its criteria of failure.
//!
//! A wrong allow always fails the soak. Another wrong answer does if no fault was in force and the machine was not
//! late: a loaded machine keeps a view from being renewed in time, and a 503 is right then.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// Examples of each kind that are printed.
const EXAMPLES: usize = 5;
/// Longer than a view may be used, and the reads that should have renewed it.
const WINDOW: Duration = Duration::from_secs(4);
/// A total delay within the window that explains a view that is too old: a view may be used for 2 s, and is renewed by
/// reads that take 0.4 s each, so that half a second leaves one of three reads out.
const LATE: Duration = Duration::from_millis(500);

#[derive(Default)]
pub(super) struct Tally {
    pub(super) checks: u64,
    pub(super) refused: u64,
    pub(super) unavailable: u64,
    /// Refused because the view was too old, by an instance that the store had not answered for as long.
    pub(super) unheard: u64,
    /// Refused for its times, by an instance that a fault befell.
    pub(super) untimely: u64,
    pub(super) confirmed: u64,
    pub(super) sign_outs: u64,
    pub(super) unstored: u64,
    /// Checks that an instance did not answer: it was killed or stood still.
    pub(super) unanswered: u64,
    /// From a sign-out's answer to the sending of the latest check that was allowed.
    pub(super) latest_allow: Duration,
    /// By fault, the time in which no check of a live token was allowed.
    pub(super) outages: BTreeMap<String, Duration>,
    /// With the state at each event.
    wrong_allows: Vec<String>,
    others: BTreeMap<String, Other>,
}

/// Possible explanations of a wrong refusal.
#[derive(Clone, Copy, Debug)]
pub(super) enum Cause {
    Nothing,
    /// A fault was in force, or had been a moment before, be it another instance's.
    Fault,
    /// The machine was late.
    Machine,
}

#[derive(Default)]
struct Other {
    unexplained: u64,
    beside_a_fault: u64,
    on_a_late_machine: u64,
    examples: Vec<String>,
}

impl Tally {
    #[expect(clippy::print_stdout, reason = "each is printed when it happens")]
    pub(super) fn wrong_allow(&mut self, context: String) {
        println!("WRONG ALLOW: {context}");
        self.wrong_allows.push(context);
    }

    /// An answer that allows nothing and differs from the oracle's expectation.
    pub(super) fn wrong_answer(&mut self, kind: &str, cause: Cause, context: String) {
        let other = self.others.entry(kind.to_owned()).or_default();
        match cause {
            Cause::Nothing => other.unexplained += 1,
            Cause::Fault => other.beside_a_fault += 1,
            Cause::Machine => other.on_a_late_machine += 1,
        }
        if other.examples.len() < EXAMPLES {
            other.examples.push(format!("{context}: {cause:?}"));
        }
    }

    /// The wrong answers; an error if one of them fails the soak.
    pub(super) fn verdict(&self) -> Result<String, String> {
        let mut text = format!("{} wrong allows\n", self.wrong_allows.len());
        for context in &self.wrong_allows {
            let _ = writeln!(text, "  {context}");
        }
        let total = |count: fn(&Other) -> u64| self.others.values().map(count).sum::<u64>();
        let unexplained = total(|other| other.unexplained);
        let _ = writeln!(
            text,
            "other wrong answers: {unexplained} unexplained, {} beside a fault, {} on a machine that was late",
            total(|other| other.beside_a_fault),
            total(|other| other.on_a_late_machine)
        );
        for (kind, Other { unexplained, beside_a_fault, on_a_late_machine, examples }) in &self.others {
            let _ = writeln!(text, "  {kind}: {unexplained}, {beside_a_fault}, {on_a_late_machine}");
            for example in examples {
                let _ = writeln!(text, "    {example}");
            }
        }
        if self.wrong_allows.is_empty() && unexplained == 0 { Ok(text) } else { Err(text) }
    }
}

/// The delay of the machine: by how much a sleeping thread, a computing thread, and a thread that writes a file
/// through took longer than they should.
#[derive(Default)]
pub(super) struct Pace {
    late: Mutex<VecDeque<(Instant, Duration)>>,
    worst: Mutex<Duration>,
}

impl Pace {
    const EVERY: Duration = Duration::from_millis(50);
    /// In units of a processor.
    const WORK: Duration = Duration::from_millis(5);

    /// Measures as long as another owner exists.
    pub(super) fn measure(self: &Arc<Self>) {
        let dir = crate::support::TempDir::new();
        let file = std::fs::File::create(dir.path().join("pace")).unwrap();
        let write = move || {
            let _in = &dir;
            file.write_all_at(b"x", 0).unwrap();
            file.sync_data().unwrap();
        };
        let acts: [(Duration, Box<dyn Fn() + Send>); 3] =
            [(Duration::ZERO, Box::new(|| {})), (Self::WORK, Box::new(work)), (Duration::ZERO, Box::new(write))];
        for (takes, act) in acts {
            let pace = Arc::downgrade(self);
            std::thread::spawn(move || {
                while let Some(pace) = pace.upgrade() {
                    let began = Instant::now();
                    act();
                    std::thread::sleep(Self::EVERY);
                    pace.note(began.elapsed().saturating_sub(Self::EVERY + takes));
                }
            });
        }
    }

    fn note(&self, late: Duration) {
        let now = Instant::now();
        let mut all = self.late.lock().unwrap();
        while all.front().is_some_and(|(at, _)| now.duration_since(*at) > WINDOW) {
            all.pop_front();
        }
        // A wake-up takes a moment on any machine, and a disk some milliseconds.
        if late > Duration::from_millis(20) {
            all.push_back((now, late));
        }
        drop(all);
        let mut worst = self.worst.lock().unwrap();
        *worst = late.max(*worst);
    }

    /// How late in all within the window, if that explains a view that is too old.
    pub(super) fn explains(&self) -> Option<Duration> {
        let late: Duration = self.late.lock().unwrap().iter().map(|(_, late)| *late).sum();
        Some(late).filter(|late| *late >= LATE)
    }

    pub(super) fn worst(&self) -> Duration {
        *self.worst.lock().unwrap()
    }
}

/// Takes [`Pace::WORK`] of a processor, and longer where others want it.
fn work() {
    let used = || {
        let used = clock_gettime(ClockId::ThreadCPUTime);
        Duration::new(used.tv_sec.try_into().unwrap(), used.tv_nsec.try_into().unwrap())
    };
    let began = used();
    while used().saturating_sub(began) < Pace::WORK {}
}
