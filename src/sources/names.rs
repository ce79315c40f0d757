//! The meaning of issuer names.
//!
//! A revocation is kept under the name of an issuer and what a claim of its tokens says. Where the name comes to stand
//! for another `iss`, the issuer gets another name, or another claim names the user, what was revoked would be accepted
//! again without a word. Such a change is a fault while revocations live that it would lose: the store notes what the
//! names stand for, and so does the process.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::authz::claims::{ClaimPath, IssuerName, Timestamp};
use crate::authz::revocation::{Kind, RevocationIndex, Target};
use crate::authz::token::TrustedIssuer;

/// The meaning of one issuer name: its `iss` values and the claims that name users and sessions.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
struct Meaning {
    name: String,
    /// Every `iss`.
    issuer: Vec<String>,
    /// Whether its users are named with their tenant.
    multi_tenant: bool,
    user_id: Vec<String>,
    /// By which users are found whom signals name by their address; empty: by none.
    email: Vec<String>,
    session_id: Vec<String>,
    client_id: Vec<String>,
}

impl Meaning {
    /// Of the present name of an issuer, and of the former ones: what stands under these applies to its tokens.
    fn all(issuer: &TrustedIssuer) -> impl Iterator<Item = Self> {
        let texts = |claims: &[ClaimPath]| claims.iter().map(|claim| claim.as_str().to_owned()).collect();
        let names = [&issuer.name].into_iter().chain(&issuer.formerly);
        names.map(move |name| Self {
            name: name.to_string(),
            issuer: issuer.issuer.texts().collect(),
            multi_tenant: issuer.issuer.is_multi_tenant(),
            user_id: texts(&issuer.claim_names.user_id),
            email: texts(addresses(issuer)),
            session_id: texts(&issuer.claim_names.session_id),
            client_id: texts(&issuer.claim_names.client_id),
        })
    }
}

/// The claims by which a user is found who is named by an address.
fn addresses(issuer: &TrustedIssuer) -> &[ClaimPath] {
    if issuer.revocable_by_email { &issuer.claim_names.email } else { &[] }
}

/// What names stood for, and until when an instance said so at the least; as it stands in the store.
pub type Note = (String, Timestamp);

/// The meanings of each name with their last use; a name may have had several.
#[derive(Clone, Debug, Default)]
pub struct Names(Vec<(Meaning, Timestamp)>);

/// A change that would make revocations apply no longer.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Conflict {
    /// The issuer's place in the configuration.
    pub issuer: usize,
    /// The key, from the issuer on.
    pub key: &'static [&'static str],
    /// The fault and its cure.
    pub message: String,
    /// The meaning that the store noted.
    pub note: String,
}

impl Names {
    /// How long an instance that uses a name is taken to run on after it last said so.
    const IN_USE: Duration = Duration::from_secs(90);

    /// Parses the store's notes; an unreadable note was written by another program.
    #[must_use]
    pub fn read(notes: Vec<Note>) -> Self {
        let read = |(text, seen): Note| Some((serde_json::from_str(&text).ok()?, seen));
        Self(notes.into_iter().filter_map(read).collect())
    }

    /// Notes what names stand for now. A name that is not among them keeps its meaning: it may come back.
    pub fn note(&mut self, issuers: &[Arc<TrustedIssuer>]) {
        let now: Vec<_> = issuers.iter().flat_map(|issuer| Meaning::all(issuer)).collect();
        self.0.retain(|(meaning, _)| now.iter().all(|other| other.name != meaning.name));
        self.0.extend(now.into_iter().map(|meaning| (meaning, Timestamp::default())));
    }

    /// The notes to store for these issuers.
    #[must_use]
    pub fn texts(issuers: &[Arc<TrustedIssuer>]) -> Vec<String> {
        let all = issuers.iter().flat_map(|issuer| Meaning::all(issuer));
        all.filter_map(|meaning| serde_json::to_string(&meaning).ok()).collect()
    }

    /// How these issuers would lose revocations that live, or share a name with an issuer in use that is another one.
    #[must_use]
    pub fn conflicts(&self, issuers: &[Arc<TrustedIssuer>], index: &RevocationIndex, now: Timestamp) -> Vec<Conflict> {
        let lives = |name: &str, is_meant: fn(&Target) -> bool| {
            index
                .entries()
                .any(|known| known.target.issuer.as_str() == name && known.expires_at > now && is_meant(&known.target))
        };
        let mut found = Vec::new();
        for (noted, seen) in &self.0 {
            let (name, note) = (noted.name.as_str(), serde_json::to_string(noted).unwrap_or_default());
            let is_named = |other: &IssuerName| other.as_str() == name;
            for (at, issuer) in issuers.iter().enumerate() {
                let mut conflict = |key: &'static [&'static str], message: String| {
                    found.push(Conflict { issuer: at, key, message, note: note.clone() });
                };
                let is_ours = is_named(&issuer.name) || issuer.formerly.iter().any(is_named);
                // A spelling may come and another go, one at a time.
                let is_same = issuer.issuer.texts().any(|text| noted.issuer.contains(&text));
                if is_ours && !is_same {
                    if lives(name, |_| true) || seen.plus(Self::IN_USE) > now {
                        let other = noted.issuer.join("`, `");
                        let ours = issuer.issuer.texts().collect::<Vec<_>>().join("`, `");
                        conflict(
                            &["issuer"],
                            format!(
                                "the name `{name}` stands for `{other}` in revocations that live, and here for \
                                 `{ours}`: they would apply to the wrong tokens; give this issuer another name (or, for another deployment, \
                                 `revocation.redis.key_prefix`), or set `revocation.accept_loss: true`"
                            ),
                        );
                    }
                } else if is_ours {
                    let is_multi_tenant = issuer.issuer.is_multi_tenant();
                    if noted.multi_tenant != is_multi_tenant && lives(name, |target| target.kind == Kind::User) {
                        let (before, next) = if is_multi_tenant { ("out", "") } else { ("", "out") };
                        conflict(
                            &["issuer"],
                            format!(
                                "revocations of users that live under the name `{name}` name them with{before} their \
                                 tenant, and here they are named with{next} it: they would no longer apply; give what \
                                 is new another name, or set `revocation.accept_loss: true`"
                            ),
                        );
                    }
                    for Mapping { key, what, before, next, is_meant } in mappings(noted, issuer) {
                        let goes_on = next.len() >= before.len()
                            && before.iter().zip(next).all(|(before, next)| before == next.as_str());
                        if !goes_on && lives(name, is_meant) {
                            let claims = before.join("`, `");
                            let ours = next.iter().map(ClaimPath::as_str).collect::<Vec<_>>().join("`, `");
                            conflict(
                                key,
                                format!(
                                    "revocations of a {what} that live under the name `{name}` go by `{claims}` and \
                                     would no longer apply by `{ours}`; begin the list with that, or set \
                                     `revocation.accept_loss: true`"
                                ),
                            );
                        }
                    }
                } else if is_same && !issuers.iter().any(|other| is_named(&other.name)) && lives(name, |_| true) {
                    conflict(
                        &["name"],
                        format!(
                            "revocations that live under the former name `{name}` of this issuer would no longer \
                             apply; add `formerly: [{name}]`, or set `revocation.accept_loss: true`"
                        ),
                    );
                }
            }
        }
        found
    }
}

/// Claims that name what is revoked, before and after a change.
struct Mapping<'a> {
    key: &'static [&'static str],
    what: &'static str,
    before: &'a [String],
    next: &'a [ClaimPath],
    is_meant: fn(&Target) -> bool,
}

fn mappings<'a>(noted: &'a Meaning, issuer: &'a TrustedIssuer) -> [Mapping<'a>; 4] {
    let names = &issuer.claim_names;
    [
        Mapping {
            key: &["claims", "user_id"],
            what: "user",
            before: &noted.user_id,
            next: &names.user_id,
            is_meant: |target| target.kind == Kind::User,
        },
        Mapping {
            key: &["claims", "email"],
            what: "user by address",
            before: &noted.email,
            next: addresses(issuer),
            // An address stands in a digest.
            is_meant: |target| target.kind == Kind::User && target.id.is_digest(),
        },
        Mapping {
            key: &["claims", "session_id"],
            what: "session",
            before: &noted.session_id,
            next: &names.session_id,
            is_meant: |target| target.kind == Kind::Session,
        },
        Mapping {
            key: &["claims", "client_id"],
            what: "client",
            before: &noted.client_id,
            next: &names.client_id,
            is_meant: |target| target.kind == Kind::Client,
        },
    ]
}
