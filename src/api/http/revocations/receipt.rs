//! `?wait=all&timeout=2s`: answers when every instance applies the revocation.

use std::time::{Duration, Instant};

use serde::de::{IntoDeserializer, value};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::super::problem::{Error, Problem};
use crate::authz::revocation::Revocation;
use crate::clock::{self, Steady};
use crate::config::Limits;
use crate::state::{Position, Receipt, Replica};

/// Whether to wait, and how long.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(in crate::api::http) struct WaitQuery {
    /// `all`: answers when every live instance has applied it, or at the timeout.
    #[param(inline, value_type = Option<WaitFor>)]
    wait: Option<String>,
    /// The longest wait, such as `2s`, which is the default; at most `limits.receipt_timeout`, and no
    /// longer than `limits.http_timeout` leaves.
    #[param(example = "2s")]
    timeout: Option<String>,
}

/// The instances to wait for.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum WaitFor {
    All,
}

impl WaitFor {
    fn parse(text: &str) -> Result<Self, value::Error> {
        Self::deserialize(text.into_deserializer())
    }
}

/// The instances that refuse the target; absent when the request does not wait.
#[derive(Default, Serialize, ToSchema)]
pub(super) struct Confirmation {
    /// No instance, connected or cut off, accepts the token any more (`on_stale: deny`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) confirmed: Option<bool>,
    /// The number of instances that have applied it; only when not confirmed.
    #[serde(skip_serializing_if = "Option::is_none")]
    applied: Option<usize>,
    /// The number of instances that may be deciding.
    #[serde(skip_serializing_if = "Option::is_none")]
    instances: Option<usize>,
    /// The names of the instances that have not confirmed; absent when all have.
    #[serde(skip_serializing_if = "Option::is_none")]
    waiting: Option<Vec<String>>,
    /// Until then the store may have lost leases of instances, or its clock has not been observed for long enough (RFC
    /// 3339); only when that prevents a confirmation.
    #[serde(skip_serializing_if = "Option::is_none")]
    uncertain_until: Option<String>,
    /// The number of streams that the revocation ended, at all instances that have reported it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) streams: Option<usize>,
    /// See [`Receipt::lapsed`].
    #[serde(skip)]
    pub(super) lapsed: bool,
    /// From the request to the last confirmation, in milliseconds; only when confirmed.
    #[serde(skip_serializing_if = "Option::is_none")]
    took_ms: Option<f64>,
}

/// A requested wait.
#[derive(Clone, Copy)]
pub(super) struct Wait {
    began: Steady,
    until: Instant,
}

impl Wait {
    const DEFAULT: Duration = Duration::from_secs(2);
    /// The part of the request's time that is reserved for the answer itself.
    const GRACE: Duration = Duration::from_millis(250);

    pub(super) fn read(query: &WaitQuery, limits: &Limits) -> Result<Option<Self>, Problem> {
        let invalid = |name: &str, detail: String| Problem::new(Error::InvalidParameter, detail).at(name);
        let timeout = match &query.timeout {
            None => Self::DEFAULT.min(*limits.receipt_timeout),
            Some(text) => humantime::parse_duration(text)
                .ok()
                .filter(|timeout| *timeout <= *limits.receipt_timeout)
                .ok_or_else(|| {
                    let most = humantime::format_duration(*limits.receipt_timeout);
                    invalid("timeout", format!("must be a duration such as `2s`, at most {most}"))
                })?,
        };
        let (began, until) = (Steady::now(), Instant::now());
        let until = until + timeout.min(limits.http_timeout.saturating_sub(Self::GRACE));
        match query.wait.as_deref().map(WaitFor::parse) {
            None if query.timeout.is_some() => Err(invalid("timeout", "applies to `wait=all` only".to_owned())),
            None => Ok(None),
            Some(Ok(WaitFor::All)) => Ok(Some(Self { began, until })),
            Some(Err(_)) => Err(invalid("wait", "must be `all`".to_owned())),
        }
    }

    /// `stored`: the revocation's place in the log. `tell` gets each receipt on the way.
    pub(super) async fn confirm(
        self,
        replica: &Replica,
        revocation: &Revocation,
        stored: Position,
        tell: &(dyn Fn(&Receipt) + Sync),
    ) -> Confirmation {
        let patience = self.until.saturating_duration_since(Instant::now());
        let receipt = replica.confirm(revocation, stored, self.began, patience, tell).await;
        let confirmed = receipt.is_confirmed();
        let Receipt { instances, applied, waiting, uncertain_for, streams, lapsed } = receipt;
        Confirmation {
            confirmed: Some(confirmed),
            applied: (!confirmed).then_some(applied),
            instances: Some(instances),
            waiting: (!confirmed).then_some(waiting),
            uncertain_until: uncertain_for.map(|left| clock::format_rfc3339(clock::now().plus(left))),
            streams: Some(streams),
            lapsed,
            took_ms: confirmed.then(|| (self.began.elapsed().as_secs_f64() * 10_000.0).round() / 10.0),
        }
    }
}
