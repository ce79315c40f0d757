//! What the names of issuers stand for.
//!
//! A revocation is kept under the name of an issuer and what a claim of its tokens says. Where the name comes to stand
//! for another `iss`, the issuer gets another name, or another claim names the user, what was revoked would be accepted
//! again without a word. Such a change is a fault while revocations live that it would lose: the store notes what the
//! names stand for, and so does the process.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::authz::claims::{ClaimPath, IssuerName, Timestamp};
use crate::authz::revocation::{Kind, RevocationIndex};
use crate::authz::token::TrustedIssuer;

/// What one name stands for: which tokens, and by which claims they are named.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
struct Meaning {
    name: String,
    /// Every `iss`.
    issuer: Vec<String>,
    user_id: Vec<String>,
    session_id: Vec<String>,
    client_id: Vec<String>,
}

impl From<&TrustedIssuer> for Meaning {
    fn from(issuer: &TrustedIssuer) -> Self {
        let texts = |claims: &[ClaimPath]| claims.iter().map(|claim| claim.as_str().to_owned()).collect();
        Self {
            name: issuer.name.to_string(),
            issuer: issuer.issuer.texts().collect(),
            user_id: texts(&issuer.claim_names.user_id),
            session_id: texts(&issuer.claim_names.session_id),
            client_id: texts(&issuer.claim_names.client_id),
        }
    }
}

/// What names stood for, and until when an instance said so at the least; as it stands in the store.
pub type Note = (String, Timestamp);

/// What each name stood for when it was last used; a name may have stood for several things.
#[derive(Clone, Debug, Default)]
pub struct Names(Vec<(Meaning, Timestamp)>);

/// A change that would make revocations apply no longer.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Conflict {
    /// The issuer's place in the configuration.
    pub issuer: usize,
    /// The key, from the issuer on.
    pub key: &'static [&'static str],
    /// What is wrong and what would be right.
    pub message: String,
    /// What the store noted.
    pub note: String,
}

impl Names {
    /// How long an instance that uses a name is taken to run on after it last said so.
    const IN_USE: Duration = Duration::from_secs(90);

    /// What a store noted; what cannot be read there was written by another program.
    #[must_use]
    pub fn read(notes: Vec<Note>) -> Self {
        let read = |(text, seen): Note| Some((serde_json::from_str(&text).ok()?, seen));
        Self(notes.into_iter().filter_map(read).collect())
    }

    /// Notes what names stand for now. A name that is not among them keeps its meaning: it may come back.
    pub fn note(&mut self, issuers: &[Arc<TrustedIssuer>]) {
        self.0.retain(|(meaning, _)| issuers.iter().all(|issuer| issuer.name.as_str() != meaning.name));
        self.0.extend(issuers.iter().map(|issuer| (Meaning::from(&**issuer), Timestamp::default())));
    }

    /// What a store is to note of these.
    #[must_use]
    pub fn texts(issuers: &[Arc<TrustedIssuer>]) -> Vec<String> {
        issuers.iter().filter_map(|issuer| serde_json::to_string(&Meaning::from(&**issuer)).ok()).collect()
    }

    /// How these issuers would lose revocations that live, or share a name with an issuer in use that is another one.
    #[must_use]
    pub fn conflicts(&self, issuers: &[Arc<TrustedIssuer>], index: &RevocationIndex, now: Timestamp) -> Vec<Conflict> {
        let lives = |name: &str, kind: Option<Kind>| {
            index.entries().any(|known| {
                known.target.issuer.as_str() == name
                    && known.expires_at > now
                    && kind.is_none_or(|kind| kind == known.target.kind)
            })
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
                    if lives(name, None) || seen.plus(Self::IN_USE) > now {
                        let other = noted.issuer.join("`, `");
                        conflict(
                            &["issuer"],
                            format!(
                                "the name `{name}` stands for `{other}` in revocations that live: they would apply to \
                                 the wrong tokens; give this issuer another name (or, for another deployment, \
                                 `revocation.redis.key_prefix`), or set `revocation.accept_loss: true`"
                            ),
                        );
                    }
                } else if is_ours {
                    for (key, kind, before, next) in mappings(noted, issuer) {
                        let goes_on = next.len() >= before.len()
                            && before.iter().zip(next).all(|(before, next)| before == next.as_str());
                        if !goes_on && lives(name, Some(kind)) {
                            let claims = before.join("`, `");
                            conflict(
                                key,
                                format!(
                                    "revocations of a {kind} that live under the name `{name}` go by `{claims}` and \
                                     would no longer apply; begin the list with that, or set \
                                     `revocation.accept_loss: true`"
                                ),
                            );
                        }
                    }
                } else if is_same && !issuers.iter().any(|other| is_named(&other.name)) && lives(name, None) {
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

type Mapping<'a> = (&'static [&'static str], Kind, &'a [String], &'a [ClaimPath]);

fn mappings<'a>(before: &'a Meaning, next: &'a TrustedIssuer) -> [Mapping<'a>; 3] {
    let names = &next.claim_names;
    [
        (&["claims", "user_id"], Kind::User, &before.user_id, &names.user_id),
        (&["claims", "session_id"], Kind::Session, &before.session_id, &names.session_id),
        (&["claims", "client_id"], Kind::Client, &before.client_id, &names.client_id),
    ]
}
