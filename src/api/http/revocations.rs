//! `POST /v1/revocations`: from a request to a revocation in the store.

mod list;
mod progress;
mod receipt;
mod stamp;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Response, StatusCode};
use axum::response::IntoResponse;
use serde::{Deserialize, Serialize};
use tracing::{info, warn};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use super::Http;
use super::extract::{Json, MayRevoke, Parameters};
use super::openapi::names;
use super::problem::{Error, Problem, ProblemDetails};
use crate::api::event_source;
use crate::api::explain::watermark;
use crate::authz::claims::{IssuerName, Timestamp};
use crate::authz::denial::Denial;
use crate::authz::revocation::{Kind, Note, Origin, Revocation, Target, TargetId, Watermark};
use crate::authz::token::{Expiry, TrustedIssuer, UnverifiedToken, VerifiedToken};
use crate::clock;
use crate::sources::ledger::Position;
use crate::state::{LedgerError, Policy, Receipt};

pub(super) use list::{__path_list, list};
use receipt::{Confirmation, Wait, WaitQuery};
pub(super) use stamp::Stamp;

/// The target: by `id`, or as a `token` names it.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RevocationRequest {
    /// The kind of the target: `token`, `session`, `user`, `client`, `key` or `issuer`.
    #[schema(value_type = KindName)]
    kind: String,
    /// The configured name of the issuer; may be left out when one is configured, or with `token`.
    issuer: Option<String>,
    /// The target: `jti`, `sid`, the user id, the client id or `kid`; the issuer's name or nothing for
    /// kind `issuer`. `sha256:` and 64 hex digits name a token without `jti`. A user of an issuer with `{tenant}` is
    /// `TENANT|USER`. A whole number counts as its text, as it does in tokens.
    id: Option<Id>,
    /// The access token itself, instead of `id`; it may have expired.
    token: Option<String>,
    /// The token's own `exp`, needed for kind `token` by `id`; at most `max_lifetime` and the leeway from now, since
    /// no token lives longer. The leeway is added. For other kinds it has no effect: they are kept until the last
    /// token that they can refuse has expired.
    expires_at: Option<Instant>,
    /// Tokens issued up to here are refused; `*` refuses all of the target, whenever issued. The default is `*` for a
    /// token, a session and a key, because an attacker who has one chooses the dates of tokens, and now for the
    /// others. Whole seconds mean all of that second.
    at: Option<Instant>,
    /// An operator's note, at most 256 bytes, with control characters replaced; it appears in the log, in the list
    /// and in the audit line.
    #[schema(max_length = 256)]
    reason: Option<String>,
}

/// The id of a target, as a token may write it: text, or a whole number.
#[derive(Deserialize, ToSchema)]
#[serde(untagged, expecting = "must be text or a whole number")]
pub(super) enum Id {
    Text(String),
    Whole(i64),
    Large(u64),
}

impl Id {
    fn text(&self) -> Cow<'_, str> {
        match self {
            Self::Text(text) => text.into(),
            Self::Whole(number) => number.to_string().into(),
            Self::Large(number) => number.to_string().into(),
        }
    }
}

/// The kind of a target, by its name.
#[derive(Serialize)]
pub(super) struct KindName(&'static str);

impl From<Kind> for KindName {
    fn from(kind: Kind) -> Self {
        Self(kind.as_str())
    }
}

impl ToSchema for KindName {}

impl PartialSchema for KindName {
    fn schema() -> RefOr<Schema> {
        names("The kind of a target.", Kind::ALL.map(Kind::as_str))
    }
}

/// An instant: RFC 3339 text, or whole seconds since 1970.
#[derive(Deserialize, ToSchema)]
#[serde(untagged, expecting = "must be RFC 3339 text or whole seconds since 1970")]
pub(super) enum Instant {
    Seconds(i64),
    Text(String),
}

impl Instant {
    /// The last second of the year 9999; a value in milliseconds by mistake is beyond it.
    const LAST_SECOND: i64 = 253_402_300_799;

    pub(super) fn read(&self, pointer: &str) -> Result<Timestamp, Problem> {
        let instant = match self {
            Self::Seconds(seconds) => {
                Some(Timestamp::from_secs(*seconds)).filter(|_| (0..=Self::LAST_SECOND).contains(seconds))
            }
            Self::Text(text) => clock::parse_rfc3339(text),
        };
        instant.ok_or_else(|| {
            Problem::field(pointer, "must be RFC 3339 text such as `2027-06-01T00:00:00Z`, or whole seconds since 1970")
        })
    }

    fn is_always(&self) -> bool {
        matches!(self, Self::Text(text) if text == "*")
    }
}

/// A revocation in force.
#[derive(Serialize, ToSchema)]
pub(super) struct RevocationReceipt {
    issuer: String,
    kind: KindName,
    /// The id in the store: an unusual or long id is written as `sha256:` and its digest.
    id: String,
    /// RFC 3339, or `*`.
    at: String,
    expires_at: String,
    /// The place in the log.
    position: String,
    /// `false`: no token of the issuer that this instance has verified since it started named a target of this kind,
    /// so the revocation may refuse no token; otherwise the field is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    seen: Option<bool>,
    #[serde(flatten)]
    confirmation: Confirmation,
}

/// Revokes a token, a session, a user, a client, a key, an actor or all of an issuer.
///
/// 201 means that the revocation is in the store, and with `wait=all` that every instance applies it. Repeating a
/// request changes nothing. A revocation that has expired by this instance's clock is written, too.
///
/// With `wait=all` and `Accept: text/event-stream` the response begins as soon as the revocation is stored, with 200,
/// and continues with events: `progress` (`applied`, `instances`, `waiting`, `uncertain_until`) whenever that changes,
/// and at last `receipt`, or `problem` if the store refused a later instant. `confirmed` in the receipt has the
/// result.
#[utoipa::path(
    post, path = "/v1/revocations", operation_id = "revoke", tag = "revocations", security(("admin_key" = [])),
    params(WaitQuery), request_body = RevocationRequest,
    responses(
        (status = 200, description = "The revocation is stored; the confirmations follow.", body = String, content_type = "text/event-stream"),
        (status = 201, description = "The revocation is stored.", body = RevocationReceipt),
        (status = 202, description = "The revocation is stored; `waiting` names the instances that have not confirmed in time.", body = RevocationReceipt),
        Json<RevocationRequest>,
        MayRevoke,
        (status = 503, description = "The revocation is not stored; try again after `Retry-After`. It applies in this instance, and in none if `reason` is `clock_skew`, `keys_unavailable` or, once `/readyz` shows it, `names_differ`.", body = ProblemDetails, content_type = "application/problem+json"),
    )
)]
pub(super) async fn create(
    State(http): State<Http>,
    MayRevoke(by): MayRevoke,
    Parameters(query): Parameters<WaitQuery>,
    headers: HeaderMap,
    Json(request): Json<RevocationRequest>,
) -> Result<Response<Body>, Problem> {
    let wait = Wait::read(&query, &http.limits)?;
    let stamp = Stamp::read(&http.state.replica).await;
    let Resolved { mut revocation, issuer, covers } = resolve(&http, &request, stamp).await?;
    revocation.note = Note::new(clock::now(), &by, request.reason.as_deref().unwrap_or_default());
    let position = store(&http, &by, &revocation).await?;
    let asked = Asked { http, by, request, stamp, issuer, covers };
    match wait {
        None => Ok(asked.receipt(&revocation, position, Confirmation::default()).into_response()),
        Some(wait) if progress::is_asked_for(&headers) => Ok(progress::respond(asked, wait, revocation, position)),
        Some(wait) => Ok(asked.confirm(wait, revocation, position, &|_| {}).await?.into_response()),
    }
}

/// A request that was resolved once, with this stamp.
struct Asked {
    http: Http,
    by: Arc<str>,
    request: RevocationRequest,
    stamp: Stamp,
    issuer: Arc<TrustedIssuer>,
    /// See [`Resolved::covers`].
    covers: Option<Timestamp>,
}

impl Asked {
    /// Waits until every instance refuses, and until no instance has verified a token that is dated further ahead.
    async fn confirm(
        &self,
        wait: Wait,
        mut revocation: Revocation,
        mut position: Position,
        tell: &(dyn Fn(&Receipt) + Sync),
    ) -> Result<(StatusCode, axum::Json<RevocationReceipt>), Problem> {
        let replica = &self.http.state.replica;
        let (mut stamp, mut ended) = (self.stamp, 0);
        loop {
            let mut confirmation = wait.confirm(replica, &revocation, position, tell).await;
            ended += confirmation.streams.unwrap_or_default();
            confirmation.streams = Some(ended); // A later stamp ends the streams that the one before left.
            if confirmation.confirmed == Some(false) {
                replica.has_own_names().map_err(|error| not_stored(&error))?;
                return Ok(self.receipt(&revocation, position, confirmation));
            }
            // An instance may have verified a token that is dated further ahead before it applied this.
            stamp.whole_leeway |= !replica.read_leads().await;
            // The same holds for an instance that was cut off, until its lease expired: it has not reported its leads.
            stamp.whole_leeway |= confirmation.lapsed;
            let mut again = self.stamped_again(&revocation, stamp)?;
            if again.watermark <= revocation.watermark {
                return Ok(self.receipt(&revocation, position, confirmation));
            }
            if !stamp.whole_leeway {
                // What was verified since the stamp leads by less than it did then: by how much is not known.
                stamp.whole_leeway = true;
                again = self.stamped_again(&revocation, stamp)?;
            }
            revocation = again;
            position = store(&self.http, &self.by, &revocation).await?;
        }
    }

    /// The same revocation with a later stamp, unless the request names the instant or needs none.
    ///
    /// The issuer is as the configuration has it now; if a reload has removed it, as it was.
    fn stamped_again(&self, revocation: &Revocation, mut stamp: Stamp) -> Result<Revocation, Problem> {
        let Target { issuer: name, kind, .. } = &revocation.target;
        if self.request.at.is_some() || kind.is_forever() {
            return Ok(revocation.clone());
        }
        let policy = self.http.state.policy();
        let issuer = policy.authorizer.issuers.iter().find(|issuer| issuer.names().any(|known| known == name));
        stamp.whole_leeway |= issuer.is_none(); // Leads are not reported for it any more.
        let issuer = issuer.unwrap_or(&self.issuer);
        let watermark = stamp.watermark(issuer, *kind, self.covers)?;
        let expires_at = expires_at(issuer, watermark, stamp.now()).max(revocation.expires_at);
        Ok(Revocation { watermark, expires_at, ..revocation.clone() })
    }

    fn receipt(
        &self,
        revocation: &Revocation,
        position: Position,
        confirmation: Confirmation,
    ) -> (StatusCode, axum::Json<RevocationReceipt>) {
        let unconfirmed = confirmation.confirmed == Some(false);
        let receipt = RevocationReceipt {
            issuer: revocation.target.issuer.to_string(),
            kind: revocation.target.kind.into(),
            id: revocation.target.id.to_string(),
            at: watermark(revocation.watermark),
            expires_at: clock::format_rfc3339(revocation.expires_at),
            position: position.to_string(),
            seen: (!unconfirmed && is_unseen(&self.http, &self.request, &revocation.target)).then_some(false),
            confirmation,
        };
        (if unconfirmed { StatusCode::ACCEPTED } else { StatusCode::CREATED }, axum::Json(receipt))
    }
}

/// The place in the log.
async fn store(http: &Http, by: &str, revocation: &Revocation) -> Result<Position, Problem> {
    let (kind, issuer) = (revocation.target.kind.as_str(), &revocation.target.issuer);
    let reason = revocation.note.as_ref().and_then(|note| note.reason.as_deref());
    let written = http.state.replica.revoke(vec![revocation.clone()]).await;
    let position = written.map_err(|error| {
        warn!(%by, kind, %issuer, reason, error = error.label(), "revocation not stored");
        not_stored(&error)
    })?;
    info!(%by, kind, %issuer, reason, %position, "revoked");
    Ok(position)
}

fn not_stored(error: &LedgerError) -> Problem {
    let cure = error.cure().unwrap_or("try again");
    let detail = match error {
        LedgerError::NamesDiffer => format!("{error}: {cure}"),
        _ => format!("the revocation applies in this instance, other instances may not know it: {cure}"),
    };
    Problem::new(Error::StoreUnavailable, detail).with_reason(error.label())
}

/// Whether no token of the issuer has named a target of this kind. A target from a token itself, or a token's digest,
/// always counts as seen.
fn is_unseen(http: &Http, request: &RevocationRequest, target: &Target) -> bool {
    let by_digest = || request.id.as_ref().is_some_and(|id| TargetId::written_digest(&id.text()).is_some());
    if request.token.is_some() || target.kind == Kind::Token && by_digest() {
        return false;
    }
    let policy = http.state.policy();
    policy.authorizer.issuer_named(&target.issuer).is_some_and(|issuer| !issuer.seen.has(target.kind))
}

/// A request as this configuration understands it.
struct Resolved {
    revocation: Revocation,
    issuer: Arc<TrustedIssuer>,
    /// The lower bound of a watermark that is not named: the date of the token in the request.
    covers: Option<Timestamp>,
}

/// Parses the request; fetches keys that are not loaded yet.
async fn resolve(http: &Http, request: &RevocationRequest, stamp: Stamp) -> Result<Resolved, Problem> {
    let kind = Kind::parse(&request.kind).ok_or_else(|| {
        let kinds = Kind::ALL.map(Kind::as_str).join(", ");
        Problem::field("/kind", format!("must be one of {kinds}"))
    })?;
    if request.reason.as_ref().is_some_and(|reason| reason.len() > Note::MAX_REASON) {
        return Err(Problem::field("/reason", format!("must be at most {} bytes", Note::MAX_REASON)));
    }
    let policy = http.state.policy();
    let named = request.issuer.as_deref().map(|name| issuer_named(&policy, name)).transpose()?;
    match (&request.id, &request.token) {
        (Some(_), Some(_)) => Err(Problem::field("/token", "give either `id` or `token`")),
        (_, Some(token)) => {
            let (issuer, token) = verify(http, token).await?;
            if named.is_some_and(|named| named.name != issuer.name) {
                return Err(Problem::field("/issuer", "the token is from another issuer"));
            }
            let revocation = by_token(request, kind, &issuer, &token, stamp)?;
            Ok(Resolved { revocation, issuer, covers: token.issued_at() })
        }
        (id, None) => {
            let issuer = named.or_else(|| match policy.authorizer.issuers.as_slice() {
                [only] => Some(only),
                _ => None,
            });
            let issuer =
                issuer.ok_or_else(|| Problem::field("/issuer", "is needed: more than one issuer is configured"))?;
            let revocation = by_id(request, kind, issuer, id.as_ref().map(Id::text).as_deref(), stamp)?;
            Ok(Resolved { revocation, issuer: issuer.clone(), covers: None })
        }
    }
}

pub(super) fn issuer_named<'a>(policy: &'a Policy, name: &str) -> Result<&'a Arc<TrustedIssuer>, Problem> {
    let issuer = IssuerName::parse(name).and_then(|name| policy.authorizer.issuer_named(&name));
    issuer.ok_or_else(|| Problem::field("/issuer", "no issuer of this name is configured"))
}

/// Verifies a token as for a sign-out: it may have expired.
pub(super) async fn verify(http: &Http, token: &str) -> Result<(Arc<TrustedIssuer>, VerifiedToken), Problem> {
    let check = |_: &Policy, issuer: &TrustedIssuer, token: UnverifiedToken<'_>| {
        issuer.verify(token, clock::now(), Expiry::Tolerated)
    };
    event_source::verify(&http.state, token, event_source::issuer, check).await.map_err(|refused| {
        let denial = refused.refusal.denial;
        let error = match denial {
            Denial::KeysUnavailable => Error::KeysUnavailable,
            _ => Error::InvalidToken,
        };
        Problem::new(error, denial.message()).at("/token").with_reason(denial.label())
    })
}

/// The `exp` that a caller names for a token of this issuer.
///
/// The log is kept no longer than any token may live: a later end could not be kept, and such a token is refused for
/// its lifetime anyway.
pub(super) fn expiry(asked: &Instant, issuer: &TrustedIssuer, now: Timestamp) -> Result<Timestamp, Problem> {
    let (expires_at, latest) = (asked.read("/expires_at")?, now.plus(issuer.retention()));
    if expires_at <= latest {
        return Ok(expires_at);
    }
    let latest = clock::format_rfc3339(latest);
    let detail = format!("is later than `max_lifetime` and `leeway` allow a token of this issuer: {latest} at most");
    Err(Problem::field("/expires_at", detail))
}

fn by_token(
    request: &RevocationRequest,
    kind: Kind,
    issuer: &TrustedIssuer,
    token: &VerifiedToken,
    stamp: Stamp,
) -> Result<Revocation, Problem> {
    let target = token.targets().iter().find(|target| target.kind == kind).cloned();
    let target = target.ok_or_else(|| Problem::field("/token", format!("the token names no {kind}")))?;
    let default = Default {
        // If the issuer's clock runs ahead, this very token may be dated later than now.
        covers: token.issued_at(),
        expires_at: (kind == Kind::Token).then(|| token.expires_at().plus(issuer.leeway)),
    };
    build(request, issuer, target, default, stamp)
}

fn by_id(
    request: &RevocationRequest,
    kind: Kind,
    issuer: &TrustedIssuer,
    id: Option<&str>,
    stamp: Stamp,
) -> Result<Revocation, Problem> {
    let target = match (kind, id) {
        (Kind::Issuer, None) => Target::issuer(issuer.name.clone()),
        (Kind::Issuer, Some(id)) if id == issuer.name.as_str() => Target::issuer(issuer.name.clone()),
        (Kind::Issuer, Some(_)) => return Err(Problem::field("/id", "must be the issuer's name, or left out")),
        (_, None) => return Err(Problem::field("/id", "give `id` or `token`")),
        (_, Some("")) => return Err(Problem::field("/id", "must not be empty")),
        (Kind::User, Some(id)) if TargetId::written_digest(id).is_none() => {
            issuer.check_user_id(id).map_err(|error| Problem::field("/id", error.to_string()))?;
            Target::new(issuer.name.clone(), kind, TargetId::new(id))
        }
        // The digest that names a token without `jti` appears in answers and logs: it is accepted as written.
        (_, Some(id)) => Target::new(issuer.name.clone(), kind, TargetId::from_stored(id)),
    };
    if kind == Kind::Token && request.expires_at.is_none() {
        return Err(Problem::field("/expires_at", "is needed for a token by its id: the `exp` of the token"));
    }
    build(request, issuer, target, Default { covers: None, expires_at: None }, stamp)
}

/// Whole seconds mean all of that second: a token may be dated to the millisecond, and a token of the same second is
/// refused.
fn all_of_its_second(at: Timestamp) -> Timestamp {
    if at == Timestamp::from_secs(at.as_secs()) { at.plus(Duration::from_millis(999)) } else { at }
}

/// Defaults of the request.
struct Default {
    /// The lower bound of the watermark.
    covers: Option<Timestamp>,
    expires_at: Option<Timestamp>,
}

/// The end of a revocation of any kind but `token`.
fn expires_at(issuer: &TrustedIssuer, watermark: Watermark, now: Timestamp) -> Timestamp {
    let from = if watermark == Watermark::FOREVER { now } else { watermark.instant().max(now) };
    from.plus(issuer.retention())
}

fn build(
    request: &RevocationRequest,
    issuer: &TrustedIssuer,
    target: Target,
    default: Default,
    stamp: Stamp,
) -> Result<Revocation, Problem> {
    let (kind, now) = (target.kind, stamp.now());
    let watermark = match &request.at {
        Some(at) if at.is_always() => Watermark::FOREVER,
        Some(at) => {
            let at = at.read("/at")?;
            if at > now.plus(issuer.leeway) {
                return Err(Problem::field(
                    "/at",
                    "must not be later than now: it would refuse tokens that are not issued yet",
                ));
            }
            Watermark::at(all_of_its_second(at))
        }
        None if kind.is_forever() => Watermark::FOREVER,
        None => stamp.watermark(issuer, kind, default.covers)?,
    };
    let expires_at = if kind == Kind::Token {
        // The caller's `expires_at` counts only if it is later than the token's own `exp`.
        let asked = request.expires_at.as_ref().map(|at| expiry(at, issuer, now)).transpose()?;
        let asked = asked.map(|at| at.plus(issuer.leeway));
        asked.max(default.expires_at).unwrap_or_else(|| now.plus(issuer.retention()))
    } else {
        request.expires_at.as_ref().map(|at| at.read("/expires_at")).transpose()?;
        expires_at(issuer, watermark, now)
    };
    Ok(Revocation { target, watermark, expires_at, origin: Origin::Revoked, note: None })
}
