//! The claims that name users, sessions and clients.

use super::{Meaning, addresses};
use crate::authz::claims::ClaimPath;
use crate::authz::revocation::{Kind, Target};
use crate::authz::token::TrustedIssuer;

/// The claims that name targets, before and after a change.
pub(super) struct Mapping<'a> {
    pub(super) key: &'static [&'static str],
    what: &'static str,
    before: &'a [String],
    next: &'a [ClaimPath],
    pub(super) is_meant: fn(&Target) -> bool,
}

impl Mapping<'_> {
    /// Whether every token that had a name before has the same name.
    pub(super) fn keeps_names(&self) -> bool {
        let mut both = self.before.iter().zip(self.next);
        self.next.len() >= self.before.len() && both.all(|(before, next)| before == next.as_str())
    }

    pub(super) fn message(&self, name: &str) -> String {
        let claims = self.before.join("`, `");
        let ours = self.next.iter().map(ClaimPath::as_str).collect::<Vec<_>>().join("`, `");
        format!(
            "revocations of a {} under the name `{name}` may still be in force, name it by `{claims}` and would no \
             longer apply by `{ours}`; begin the list with `{claims}`, or set `revocation.accept_loss: true`",
            self.what
        )
    }
}

pub(super) fn mappings<'a>(noted: &'a Meaning, issuer: &'a TrustedIssuer) -> [Mapping<'a>; 4] {
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
            // An address is a part of a digest.
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
