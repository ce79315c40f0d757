//! The possible states and answers of instances at each moment, computed from the acknowledged
//! revocations and their times.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::support::*;

/// Revocations in the order of their acknowledgement.
#[derive(Default)]
pub(crate) struct Oracle {
    acknowledged: Mutex<Vec<(String, Instant)>>,
}

/// How far one instance has been judged.
#[derive(Default)]
pub(crate) struct Judged {
    checked: usize,
    pub(crate) samples: u32,
    /// The oldest that its view claimed to be.
    pub(crate) oldest: Duration,
}

impl Oracle {
    pub(crate) fn acknowledge(&self, id: String) {
        self.acknowledged.lock().unwrap().push((id, Instant::now()));
    }

    pub(crate) fn count(&self) -> usize {
        self.acknowledged.lock().unwrap().len()
    }

    /// A view has an age: every revocation acknowledged before that must be applied. `max_staleness`
    /// depends on this; and a token that was never revoked is not refused.
    #[track_caller]
    pub(crate) fn judge(&self, instance: &Instance, judged: &mut Judged) {
        let now = Instant::now();
        let Some(age) = instance.age() else { return }; // Not ready: it refuses everything.
        let acknowledged = self.acknowledged.lock().unwrap();
        let as_of = now.checked_sub(age);
        while let Some((id, at)) = acknowledged.get(judged.checked).filter(|(_, at)| as_of.is_some_and(|of| *at < of)) {
            assert!(
                instance.refuses(&token(id)),
                "{id}, acknowledged {:?} ago, is accepted by a view that claims to be {age:?} old",
                now.saturating_duration_since(*at)
            );
            judged.checked += 1;
        }
        assert!(!instance.refuses(&token("never-revoked")));
        judged.samples += 1;
        judged.oldest = judged.oldest.max(age);
    }

    /// No token with an acknowledged revocation is accepted by it any more.
    #[track_caller]
    pub(crate) fn all_refused(&self, instance: &Instance) {
        let acknowledged = self.acknowledged.lock().unwrap();
        let accepted: Vec<_> =
            acknowledged.iter().map(|(id, _)| id).filter(|id| !instance.refuses(&token(id))).collect();
        assert!(accepted.is_empty(), "{} of {} accepted: {:?}", accepted.len(), acknowledged.len(), accepted.first());
    }

    /// Waits until the instance has applied everything acknowledged so far, and checks its answers meanwhile.
    pub(crate) async fn catches_up(&self, instance: &Instance, judged: &mut Judged) {
        let until = self.count();
        eventually("caught up", || {
            self.judge(instance, judged);
            judged.checked >= until
        })
        .await;
        self.all_refused(instance);
    }
}
