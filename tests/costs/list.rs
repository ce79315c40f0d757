//! The content of a list, and the writing of an entry.

use std::time::Duration;

use doorward::authz::claims::IssuerName;
use doorward::authz::revocation::{Kind, Origin, Revocation, Target, TargetId, Watermark};
use serde_json::{Value, json};

use crate::ledger::support::now;

#[derive(Clone, Copy)]
pub(super) enum List {
    /// Tokens that were signed out.
    SignedOut,
    /// Live tokens: `list: allow`.
    Live,
    /// Users, each with the watermark of their tokens.
    Users,
}

const HOUR: Duration = Duration::from_secs(3600);

impl List {
    /// The operations for one more entry.
    pub(super) fn an_entry_is(self) -> &'static str {
        match self {
            Self::SignedOut => "a token signed out",
            Self::Live => "a live token",
            Self::Users => "a user signed out",
        }
    }

    /// The nth entry, as it is written to the log.
    pub(super) fn entry(self, n: u32) -> Revocation {
        let issuer = IssuerName::parse("main").unwrap();
        let (kind, watermark) = match self {
            Self::Live => return Revocation::registering(issuer, TargetId::new(&id(n)), now().plus(HOUR)),
            Self::SignedOut => (Kind::Token, Watermark::FOREVER),
            Self::Users => (Kind::User, Watermark::at(now())),
        };
        let target = Target::new(issuer, kind, TargetId::new(&id(n)));
        Revocation { target, watermark, expires_at: now().plus(HOUR), origin: Origin::SignedOut, note: None }
    }

    /// The nth entry as a request to the HTTP API: the path and the body.
    pub(super) fn request(self, n: u32) -> (&'static str, Value) {
        let expires_at = now().plus(HOUR).as_secs();
        match self {
            Self::SignedOut => ("/v1/revocations", json!({"kind": "token", "id": id(n), "expires_at": expires_at})),
            Self::Live => ("/v1/registrations", json!({"id": id(n), "expires_at": expires_at})),
            Self::Users => ("/v1/revocations", json!({"kind": "user", "id": id(n)})),
        }
    }
}

/// As long as a UUID.
fn id(n: u32) -> String {
    format!("3f2b8c1e-0000-4000-8000-{n:012}")
}
