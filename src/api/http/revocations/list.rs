//! `GET /v1/revocations`: the revocations that this instance applies, page by page.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use axum::extract::State;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{IntoParams, PartialSchema, ToSchema};

use super::super::Http;
use super::super::extract::{MayRead, Parameters};
use super::super::openapi::names;
use super::super::problem::{Error, Problem, ProblemDetails};
use super::KindName;
use crate::api::explain::watermark;
use crate::authz::claims::{IssuerName, Timestamp};
use crate::authz::revocation::{Kind, Origin, Revocation, RevocationIndex, Target, TargetId, Watermark};
use crate::clock;

/// A filter of the revocations, and a page.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(in crate::api::http) struct ListQuery {
    /// Only of this issuer, by its configured name.
    #[param(pattern = "^[a-z0-9-]{1,63}$")]
    issuer: Option<String>,
    /// Only of this kind.
    #[param(inline, value_type = Option<KindName>)]
    kind: Option<String>,
    /// Only of this target.
    id: Option<String>,
    /// Only of this origin.
    #[param(inline, value_type = Option<OriginName>)]
    origin: Option<String>,
    /// `target` (the default): by issuer, kind, id and origin. `newest`: the latest `since` first, or `at` where that is
    /// null; those with neither are last.
    #[param(schema_with = orders, required = false)]
    order: Option<String>,
    /// `next_cursor` of the previous page, in the same order.
    cursor: Option<String>,
    /// The most items on the page; at most, and by default, `limits.list_page`.
    #[param(minimum = 1)]
    limit: Option<usize>,
}

/// The origin of a revocation, by its name.
#[derive(Serialize)]
struct OriginName(&'static str);

impl ToSchema for OriginName {}

impl PartialSchema for OriginName {
    fn schema() -> RefOr<Schema> {
        names("The origin of a revocation.", Origin::ALL.map(Origin::as_str))
    }
}

const ORDERS: [&str; 2] = ["target", "newest"];

fn orders() -> RefOr<Schema> {
    names("The order of a list.", ORDERS)
}

/// A page of the list.
#[derive(Serialize, ToSchema)]
pub(in crate::api::http) struct RevocationPage {
    /// In the requested order.
    revocations: Vec<RevocationItem>,
    /// The start of the next page; null on the last.
    next_cursor: Option<String>,
}

#[derive(Serialize, ToSchema)]
struct RevocationItem {
    issuer: String,
    kind: KindName,
    id: String,
    origin: OriginName,
    /// RFC 3339, or `*`.
    at: String,
    expires_at: String,
    /// When it was made (RFC 3339). Null, as `by` and `reason`, where neither was given, or where both are in the log
    /// alone: an instance keeps 8 MiB of them.
    since: Option<String>,
    /// The name of the admin key that requested it.
    by: Option<String>,
    /// The operator's note.
    reason: Option<String>,
}

/// Lists the revocations that this instance has applied.
///
/// Revocations that are added or expire between two pages may be missing; all others are listed once.
#[utoipa::path(
    get, path = "/v1/revocations", operation_id = "list_revocations", tag = "revocations", params(ListQuery), security(("admin_key" = [])),
    responses(
        (status = 200, description = "A page of the list.", body = RevocationPage),
        (status = 400, description = "A parameter is not valid.", body = ProblemDetails, content_type = "application/problem+json"),
        MayRead,
        (status = 429, description = "Too many other lists are in progress.", body = ProblemDetails, content_type = "application/problem+json"),
    )
)]
pub(in crate::api::http) async fn list(
    State(http): State<Http>,
    _: MayRead,
    Parameters(query): Parameters<ListQuery>,
) -> Result<axum::Json<RevocationPage>, Problem> {
    let filter = Filter::read(&query)?;
    let page = http.limits.list_page;
    let limit = query.limit.unwrap_or(page);
    if !(1..=page).contains(&limit) {
        return Err(parameter("limit", format!("must be 1 to {page}")));
    }
    let Ok(_permit) = http.listing.try_acquire() else {
        return Err(Problem::new(Error::Busy, "too many lists are in progress: each scans all revocations"));
    };
    let index = http.state.replica.index().clone();
    // Going through a million entries must not block a thread that makes decisions.
    let found = tokio::task::spawn_blocking(move || filter.first(&index, limit + 1));
    let mut found = found.await.map_err(|_| Problem::new(Error::Busy, "the list could not be made"))?;
    let more = found.len() > limit;
    found.truncate(limit);
    let next_cursor = found.last().filter(|_| more).map(|(key, _)| cursor(key));
    Ok(axum::Json(RevocationPage { revocations: found.into_iter().map(|(_, item)| item).collect(), next_cursor }))
}

fn parameter(name: &str, detail: String) -> Problem {
    Problem::new(Error::InvalidParameter, detail).at(name)
}

/// The sort key of a list: the time in the order `newest`, the same for all in the order `target`; then the target.
type Key = (Reverse<Option<Timestamp>>, Target, Origin);

struct Filter {
    issuer: Option<IssuerName>,
    kind: Option<Kind>,
    /// The possible readings of the requested id.
    id: Option<[TargetId; 2]>,
    origin: Option<Origin>,
    newest: bool,
    after: Option<Key>,
}

impl Filter {
    fn read(query: &ListQuery) -> Result<Self, Problem> {
        let issuer = query.issuer.as_deref().map(|name| {
            IssuerName::parse(name).ok_or_else(|| parameter("issuer", "must be the name of an issuer".to_owned()))
        });
        let kind = query.kind.as_deref().map(|name| {
            let kinds = Kind::ALL.map(Kind::as_str).join(", ");
            Kind::parse(name).ok_or_else(|| parameter("kind", format!("must be one of {kinds}")))
        });
        let origin = query.origin.as_deref().map(|name| {
            Origin::parse(name)
                .ok_or_else(|| parameter("origin", format!("must be {}", Origin::ALL.map(Origin::as_str).join(" or "))))
        });
        let newest = match query.order.as_deref() {
            None | Some("target") => false,
            Some("newest") => true,
            Some(_) => return Err(parameter("order", format!("must be {}", ORDERS.join(" or ")))),
        };
        let after = query.cursor.as_deref().map(|text| {
            read_cursor(text)
                .filter(|(Reverse(time), ..)| newest || time.is_none())
                .ok_or_else(|| parameter("cursor", "must be the next_cursor of the previous page".to_owned()))
        });
        Ok(Self {
            issuer: issuer.transpose()?,
            kind: kind.transpose()?,
            id: query.id.as_deref().map(|id| [TargetId::from_stored(id), TargetId::new(id)]),
            origin: origin.transpose()?,
            newest,
            after: after.transpose()?,
        })
    }

    fn fits(&self, revocation: &Revocation) -> bool {
        let Revocation { target, origin, .. } = revocation;
        self.issuer.as_ref().is_none_or(|issuer| *issuer == target.issuer)
            && self.kind.is_none_or(|kind| kind == target.kind)
            && self.id.as_ref().is_none_or(|ids| ids.contains(&target.id))
            && self.origin.is_none_or(|wanted| wanted == *origin)
    }

    /// The first `count` in order after the cursor; never keeps more than these.
    fn first(&self, index: &RevocationIndex, count: usize) -> Vec<(Key, RevocationItem)> {
        let now = clock::now();
        let mut first: BinaryHeap<Entry> = BinaryHeap::with_capacity(count + 1);
        for revocation in index.revocations().filter(|found| self.fits(found) && found.expires_at > now) {
            let time = self.newest.then(|| made_at(&revocation)).flatten();
            let entry = Entry((Reverse(time), revocation.target.clone(), revocation.origin), revocation);
            let wanted = self.after.as_ref().is_none_or(|after| entry.0 > *after)
                && (first.len() < count || first.peek().is_some_and(|last| entry < *last));
            if wanted {
                first.push(entry);
                if first.len() > count {
                    first.pop();
                }
            }
        }
        first.into_sorted_vec().into_iter().map(|Entry(key, revocation)| (key, item(&revocation))).collect()
    }
}

/// Ordered by its key alone.
struct Entry(Key, Revocation);

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.cmp(&other.0)
    }
}

/// When the revocation was made, in whole seconds, as far as that is known.
fn made_at(revocation: &Revocation) -> Option<Timestamp> {
    let Revocation { note, watermark, .. } = revocation;
    let at = note.as_ref().map(|note| note.since).or((*watermark != Watermark::FOREVER).then(|| watermark.instant()));
    at.map(|at| Timestamp::from_secs(at.as_secs()))
}

fn item(revocation: &Revocation) -> RevocationItem {
    let note = revocation.note.as_deref();
    RevocationItem {
        issuer: revocation.target.issuer.to_string(),
        kind: revocation.target.kind.into(),
        id: revocation.target.id.to_string(),
        origin: OriginName(revocation.origin.as_str()),
        at: watermark(revocation.watermark),
        expires_at: clock::format_rfc3339(revocation.expires_at),
        since: note.map(|note| clock::format_rfc3339(note.since)),
        by: note.and_then(|note| note.by.as_deref()).map(str::to_owned),
        reason: note.and_then(|note| note.reason.as_deref()).map(str::to_owned),
    }
}

fn cursor((Reverse(time), target, origin): &Key) -> String {
    let Target { issuer, kind, id } = target;
    let time = time.map_or_else(|| "-".to_owned(), |time| time.as_millis().to_string());
    URL_SAFE_NO_PAD.encode(format!("{time} {issuer} {kind} {} {id}", origin.as_str()))
}

fn read_cursor(text: &str) -> Option<Key> {
    let text = String::from_utf8(URL_SAFE_NO_PAD.decode(text).ok()?).ok()?;
    let mut words = text.splitn(5, ' ');
    let time = match words.next()? {
        "-" => None,
        millis => Some(Timestamp::from_millis(millis.parse().ok()?)),
    };
    let (issuer, kind) = (IssuerName::parse(words.next()?)?, Kind::parse(words.next()?)?);
    let (origin, id) = (Origin::parse(words.next()?)?, TargetId::from_stored(words.next()?));
    Some((Reverse(time), Target::new(issuer, kind, id), origin))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_go_through_everything_once_in_order() {
        let index = RevocationIndex::new();
        let expires_at = clock::now().plus(std::time::Duration::from_secs(60));
        for number in 0..100 {
            let issuer = IssuerName::parse(if number % 3 == 0 { "a" } else { "b" }).unwrap();
            let kind = Kind::ALL[number % Kind::ALL.len()];
            let target = Target::new(issuer, kind, TargetId::new(&format!("id {number}")));
            for origin in [Origin::SignedOut, Origin::Revoked] {
                let watermark = if number % 7 == 0 {
                    Watermark::FOREVER
                } else {
                    Watermark::at(Timestamp::from_secs(i64::try_from(number).unwrap() / 2))
                };
                let target = target.clone();
                index.apply(
                    &Revocation { target, watermark, expires_at, origin, note: None },
                    std::time::Duration::ZERO,
                );
            }
        }
        for newest in [false, true] {
            let mut filter = Filter { issuer: None, kind: None, id: None, origin: None, newest, after: None };
            let (mut keys, mut items) = (Vec::new(), Vec::new());
            loop {
                let page = filter.first(&index, 7);
                let Some((last, _)) = page.last() else { break };
                assert_eq!(read_cursor(&cursor(last)).as_ref(), Some(last));
                filter.after = Some(last.clone());
                for (key, item) in page {
                    keys.push(key);
                    items.push(item);
                }
            }
            assert_eq!(keys.len(), 200);
            assert!(keys.is_sorted_by(|one, next| one < next));
            let dated: Vec<_> = items.iter().map(|item| item.at.as_str()).take_while(|at| *at != "*").collect();
            assert_eq!(newest, dated.is_sorted_by(|one, next| one >= next) && dated.len() == 170, "{dated:?}");
        }
    }
}
