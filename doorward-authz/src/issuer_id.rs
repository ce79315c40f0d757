//! The `iss` of an issuer: one text, several spellings, or one per tenant.

use std::borrow::Cow;

use super::claims::ClaimSet;
use super::denial::Denial;
use super::refusal::{List, Refusal, Shown, near_miss};
use super::token::text;

/// Every `iss` of one issuer; the spellings share its name and with it its watermarks.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct IssuerId(Vec<Spelling>);

/// One `iss`, compared byte by byte.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Spelling {
    Exact(String),
    /// One `iss` for each tenant, whose id is between these.
    Tenants {
        before: String,
        after: String,
        tenants: Tenants,
    },
}

/// The tenants whose tokens are accepted, by `tid`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Tenants {
    Any,
    OneOf(Vec<String>),
}

/// The configured issuer of an `iss`, and its tenant.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Named<'a> {
    pub tenant: Option<&'a str>,
}

impl Tenants {
    /// The claim that names a tenant.
    const CLAIM: &str = "tid";

    /// Whether this can be the id of a tenant: it must not contain a character that ends a segment of a URL or an
    /// id in a key.
    #[must_use]
    pub fn is_id(text: &str) -> bool {
        (1..=64).contains(&text.len()) && text.bytes().all(Self::is_of_id)
    }

    const fn is_of_id(byte: u8) -> bool {
        byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_')
    }

    fn allow(&self, tenant: &str) -> bool {
        Self::is_id(tenant)
            && match self {
                Self::Any => true,
                Self::OneOf(known) => known.iter().any(|known| known == tenant),
            }
    }

    fn cover(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Any, _) => true,
            (Self::OneOf(ours), Self::OneOf(theirs)) => theirs.iter().all(|their| ours.contains(their)),
            (Self::OneOf(_), Self::Any) => false,
        }
    }
}

impl Spelling {
    /// The placeholder of the tenant in a configured `iss`.
    pub const TENANT: &str = "{tenant}";

    fn name<'a>(&self, iss: &'a str) -> Option<Named<'a>> {
        match self {
            Self::Exact(exact) => (exact == iss).then_some(Named { tenant: None }),
            Self::Tenants { before, after, tenants } => {
                let tenant = iss.strip_prefix(before.as_str())?.strip_suffix(after.as_str())?;
                tenants.allow(tenant).then_some(Named { tenant: Some(tenant) })
            }
        }
    }

    /// Whether this accepts every `iss` of the other.
    fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Exact(ours), Self::Exact(theirs)) => ours == theirs,
            (
                Self::Tenants { before, after, tenants },
                Self::Tenants { before: their_before, after: their_after, tenants: theirs },
            ) => before == their_before && after == their_after && tenants.cover(theirs),
            // Users of a tenant have other names than users of an issuer without tenants.
            (Self::Exact(_), Self::Tenants { .. }) | (Self::Tenants { .. }, Self::Exact(_)) => false,
        }
    }

    fn overlaps(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Exact(exact), other) | (other, Self::Exact(exact)) => other.name(exact).is_some(),
            (Self::Tenants { before, after, tenants: Tenants::OneOf(tenants) }, other)
            | (other, Self::Tenants { before, after, tenants: Tenants::OneOf(tenants) }) => {
                tenants.iter().any(|tenant| {
                    let iss = format!("{before}{tenant}{after}");
                    self.name(&iss).is_some() && other.name(&iss).is_some()
                })
            }
            (Self::Tenants { before, after, .. }, Self::Tenants { before: their_before, after: their_after, .. }) => {
                let begins = before.strip_prefix(&**their_before).or_else(|| their_before.strip_prefix(&**before));
                let ends = after.strip_suffix(&**their_after).or_else(|| their_after.strip_suffix(&**after));
                [begins, ends].into_iter().all(|more| more.is_some_and(|more| more.bytes().all(Tenants::is_of_id)))
            }
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Exact(exact) => exact.clone(),
            Self::Tenants { before, after, .. } => format!("{before}{}{after}", Self::TENANT),
        }
    }

    /// The text, and the text with `{tenant}` for one segment of its path: each, or the one with the tenant's id.
    fn forms(&self) -> Vec<String> {
        let text = self.text();
        let mut forms = vec![text.clone()];
        let segments: Vec<&str> = text.split('/').collect();
        for at in 3..segments.len() {
            let may_be_a_tenant = match self {
                Self::Exact(_) => !segments[at].is_empty(),
                Self::Tenants { .. } => segments[at].contains(Self::TENANT),
            };
            if may_be_a_tenant {
                let form = [&segments[..at], &[Self::TENANT], &segments[at + 1..]].concat().join("/");
                forms.push(form);
            }
        }
        forms
    }

    /// A spelling from the configuration; `tenants` are those of a `{tenant}` in it.
    #[must_use]
    pub fn new(text: &str, tenants: &Tenants) -> Self {
        match text.split_once(Self::TENANT) {
            Some((before, after)) => {
                let (before, after, tenants) = (before.to_owned(), after.to_owned(), tenants.clone());
                Self::Tenants { before, after, tenants }
            }
            None => Self::Exact(text.to_owned()),
        }
    }
}

impl IssuerId {
    #[must_use]
    pub const fn new(spellings: Vec<Spelling>) -> Self {
        Self(spellings)
    }

    /// Whether this is one of its spellings.
    #[must_use]
    pub fn name<'a>(&self, iss: &'a str) -> Option<Named<'a>> {
        self.0.iter().find_map(|spelling| spelling.name(iss))
    }

    /// Whether it accepts every `iss` of the other, with the same names for users.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        self.is_multi_tenant() == other.is_multi_tenant()
            && other.0.iter().all(|theirs| self.0.iter().any(|ours| ours.covers(theirs)))
    }

    /// Whether an `iss` belongs to both.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.0.iter().any(|ours| other.0.iter().any(|theirs| ours.overlaps(theirs)))
    }

    /// Whether the names of its users include the tenant.
    #[must_use]
    pub fn is_multi_tenant(&self) -> bool {
        self.0.iter().any(|spelling| matches!(spelling, Spelling::Tenants { .. }))
    }

    /// Whether a token may name a user of this tenant: only spellings with `{tenant}` have a known list of tenants.
    pub(super) fn may_have_tenant(&self, tenant: &str) -> bool {
        let allows = |spelling: &Spelling| match spelling {
            Spelling::Exact(_) => true,
            Spelling::Tenants { tenants, .. } => tenants.allow(tenant),
        };
        Tenants::is_id(tenant) && self.0.iter().any(allows)
    }

    /// The tenants of a `{tenant}`; one issuer has one list for all of its spellings.
    #[must_use]
    pub fn tenants(&self) -> Option<&Tenants> {
        self.0.iter().find_map(|spelling| match spelling {
            Spelling::Tenants { tenants, .. } => Some(tenants),
            Spelling::Exact(_) => None,
        })
    }

    /// The spellings without a placeholder.
    pub fn exact(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|spelling| match spelling {
            Spelling::Exact(exact) => Some(exact.as_str()),
            Spelling::Tenants { .. } => None,
        })
    }

    /// Every `iss` that can be listed: tenants that are not named cannot.
    pub fn names(&self) -> impl Iterator<Item = String> {
        self.0.iter().flat_map(|spelling| match spelling {
            Spelling::Exact(exact) => vec![exact.clone()],
            Spelling::Tenants { before, after, tenants: Tenants::OneOf(tenants) } => {
                tenants.iter().map(|tenant| format!("{before}{tenant}{after}")).collect()
            }
            Spelling::Tenants { tenants: Tenants::Any, .. } => Vec::new(),
        })
    }

    /// Every configured spelling.
    pub fn texts(&self) -> impl Iterator<Item = String> {
        self.0.iter().map(Spelling::text)
    }

    /// Texts of which two ids have one in common if an `iss` belongs to both ([`Self::overlaps`]). Ids whose `iss` differ
    /// in one segment of the path may have one in common, too.
    #[must_use]
    pub fn forms(&self) -> Vec<String> {
        let mut forms: Vec<String> = self.0.iter().flat_map(Spelling::forms).collect();
        forms.sort_unstable();
        forms.dedup();
        forms
    }

    /// The tenant in claims: `tid`, which must be the tenant of `iss` if both are present.
    pub(super) fn tenant_of(&self, claims: &ClaimSet) -> Result<Option<String>, Refusal> {
        if !self.is_multi_tenant() {
            return Ok(None);
        }
        let (iss, tid) = (text(claims, "iss")?, text(claims, Tenants::CLAIM)?);
        let strange = |tid: &str, accepted: &str| Err(Refusal::invalid(Tenants::CLAIM, Shown(tid), accepted));
        match (iss.as_deref().map(|iss| (iss, self.name(iss))), tid) {
            (Some((iss, None)), _) => Err(unknown([self], Some(iss))),
            (Some((_, Some(Named { tenant: Some(_) }))), None) => {
                Err(Refusal::missing(Tenants::CLAIM, "the tenant that `iss` names"))
            }
            (Some((_, Some(Named { tenant: Some(tenant) }))), Some(tid)) if tenant != tid => {
                strange(&tid, "the tenant that `iss` names")
            }
            (_, Some(tid)) if !Tenants::is_id(&tid) => strange(&tid, "1 to 64 letters, digits, `-`, `.` or `_`"),
            (_, tid) => Ok(tid),
        }
    }

    /// Describes how an `iss` that is not one of its spellings differs from one of them.
    fn near_miss(&self, iss: &str) -> Option<&'static str> {
        self.0.iter().find_map(|spelling| match spelling {
            Spelling::Exact(exact) => Some(near_miss(iss, exact)).filter(|miss| !miss.is_empty()),
            Spelling::Tenants { before, after, .. } => {
                let tenant =
                    |iss: &str| iss.strip_prefix(before.as_str())?.strip_suffix(after.as_str()).map(str::to_owned);
                if tenant(iss).is_some_and(|tenant| Tenants::is_id(&tenant)) {
                    return Some("; its tenant is not among `tenants`");
                }
                let other = iss.strip_suffix('/').map_or_else(|| format!("{iss}/"), str::to_owned);
                let tenant = tenant(&other)?;
                Some(near_miss(iss, &format!("{before}{tenant}{after}"))).filter(|miss| !miss.is_empty())
            }
        })
    }
}

/// The refusal of an `iss` that belongs to none of these issuers.
pub(super) fn unknown<'a>(known: impl IntoIterator<Item = &'a IssuerId> + Clone, iss: Option<&str>) -> Refusal {
    let texts: Vec<_> = known.clone().into_iter().flat_map(IssuerId::texts).collect();
    let Some(iss) = iss else {
        return Refusal::missing("iss", format_args!("one of {}", List(texts.iter())));
    };
    let miss = known.into_iter().find_map(|known| known.near_miss(iss)).unwrap_or_default();
    let found = format_args!("`iss` is {}; accepted: {}{miss}", Shown(iss), List(texts.iter()));
    Refusal::new(Denial::UnknownIssuer, found)
}

/// The name of a tenant's user in revocations: `TENANT|USER`. The id of a tenant does not contain `|`, so no two
/// users have the same name.
#[must_use]
pub fn user_of_tenant<'a>(tenant: Option<&str>, user: &'a str) -> Cow<'a, str> {
    tenant.map_or(Cow::Borrowed(user), |tenant| format!("{tenant}|{user}").into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(tenants: Tenants) -> Spelling {
        Spelling::Tenants { before: "https://idp/".to_owned(), after: "/v2.0".to_owned(), tenants }
    }

    #[test]
    fn a_tenant_is_one_segment_and_among_those_that_are_accepted() {
        let any = IssuerId::new(vec![template(Tenants::Any), Spelling::Exact("https://other".to_owned())]);
        let two = IssuerId::new(vec![template(Tenants::OneOf(vec!["a".to_owned(), "b".to_owned()]))]);
        for (iss, of_any, of_two) in [
            ("https://idp/a/v2.0", Some(Some("a")), Some(Some("a"))),
            ("https://idp/c/v2.0", Some(Some("c")), None),
            ("https://other", Some(None), None),
            ("https://idp//v2.0", None, None),
            ("https://idp/v2.0", None, None),
            ("https://idp/a/b/v2.0", None, None),
            ("https://idp/a|b/v2.0", None, None),
            ("https://idp/a?x/v2.0", None, None),
            ("https://idp/a/v2.0/", None, None),
            ("https://idp/{tenant}/v2.0", None, None),
        ] {
            assert_eq!(any.name(iss).map(|named| named.tenant), of_any, "{iss}");
            assert_eq!(two.name(iss).map(|named| named.tenant), of_two, "{iss}");
        }
    }

    #[test]
    fn no_iss_is_of_two_issuers() {
        let one = |name: &str| IssuerId::new(vec![template(Tenants::OneOf(vec![name.to_owned()]))]);
        let any = IssuerId::new(vec![template(Tenants::Any)]);
        let exact = IssuerId::new(vec![Spelling::Exact("https://idp/a/v2.0".to_owned())]);
        assert!(!one("a").overlaps(&one("b")) && one("a").overlaps(&any) && any.overlaps(&one("b")));
        assert!(exact.overlaps(&any) && one("a").overlaps(&exact) && !exact.overlaps(&one("b")));
        assert!(exact.overlaps(&exact));
        // Two templates with different text around the tenant may accept the same `iss`.
        let of = |text: &str, tenants: &Tenants| IssuerId::new(vec![Spelling::new(text, tenants)]);
        let x_a = Tenants::OneOf(vec!["x-a".to_owned()]);
        for (one, other, overlap) in [
            (of("https://idp/{tenant}/v2.0", &Tenants::Any), of("https://idp/x-{tenant}/v2.0", &Tenants::Any), true),
            (of("https://idp/{tenant}/v2.0", &x_a), of("https://idp/x-{tenant}/v2.0", &Tenants::Any), true),
            (of("https://idp/{tenant}/v2.0", &x_a), of("https://idp/y-{tenant}/v2.0", &Tenants::Any), false),
            (of("https://idp/{tenant}/v2.0", &Tenants::Any), of("https://idp/{tenant}", &Tenants::Any), false),
            (of("https://idp/{tenant}/v2.0", &Tenants::Any), of("https://idp/x/{tenant}/v2.0", &Tenants::Any), false),
        ] {
            assert_eq!((one.overlaps(&other), other.overlaps(&one)), (overlap, overlap), "{one:?} {other:?}");
            let have_one = one.forms().iter().any(|form| other.forms().contains(form));
            assert_eq!(have_one, overlap || one.tenants() != other.tenants(), "{one:?} {other:?}");
        }
        for form in exact.forms() {
            assert!(
                ["a/v2.0", "{tenant}/v2.0", "a/{tenant}"].map(|path| format!("https://idp/{path}")).contains(&form)
            );
        }
        assert_eq!(any.forms(), ["https://idp/{tenant}/v2.0"]);
        assert_eq!(of("accounts.test", &Tenants::Any).forms(), ["accounts.test"]);
    }
}
