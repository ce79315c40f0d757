//! The watermark of a revocation whose request names no instant.

use super::super::problem::{Error, Problem};
use crate::authz::claims::Timestamp;
use crate::authz::denial::Denial;
use crate::authz::revocation::{Clocks, Kind, Watermark};
use crate::authz::token::TrustedIssuer;
use crate::state::Replica;

/// The basis of a watermark when the caller names no instant.
#[derive(Clone, Copy)]
pub(in crate::api::http) struct Stamp {
    clocks: Clocks,
    /// Whether a user's watermark is as late as that of the whole issuer, because an instance may have verified tokens
    /// with an unreported lead.
    pub(super) whole_leeway: bool,
}

impl Stamp {
    /// With the leads that other instances have seen.
    pub(in crate::api::http) async fn read(replica: &Replica) -> Self {
        let whole_leeway = !replica.read_leads().await;
        Self { clocks: replica.clocks(), whole_leeway }
    }

    /// The later of the wall clocks.
    pub(super) fn now(self) -> Timestamp {
        self.clocks.latest()
    }

    /// Fails if the clocks do not agree.
    pub(in crate::api::http) fn instant(self, issuer: &TrustedIssuer, kind: Kind) -> Result<Timestamp, Problem> {
        let as_of = if self.whole_leeway { Kind::Issuer } else { kind };
        issuer.instant(as_of, self.clocks).map_err(clock_skew)
    }

    pub(super) fn watermark(
        self,
        issuer: &TrustedIssuer,
        kind: Kind,
        covers: Option<Timestamp>,
    ) -> Result<Watermark, Problem> {
        let instant = self.instant(issuer, kind)?;
        Ok(Watermark::at(covers.map_or(instant, |covers| covers.max(instant))))
    }
}

/// Without agreeing clocks there is no valid watermark.
fn clock_skew(denial: Denial) -> Problem {
    let detail = "this instance's clock and the store's differ by more than the issuer's leeway, or the store's has not \
        been read yet: name the instant (`at`), or try again";
    Problem::new(Error::StoreUnavailable, detail).with_reason(denial.label())
}
