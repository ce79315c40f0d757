//! The facts of a decision for access logs and later filters.

use crate::authorizer::{Decision, Outcome};
use crate::claims::IssuerName;
use crate::denial::Denial;
use crate::identity::Fact;

/// The facts of a decision, allowed or refused.
pub fn facts_of<'a>(decision: &'a Decision<'_>) -> impl Iterator<Item = (&'static str, Fact<'a>)> {
    let (outcome, denial) = match &decision.outcome {
        Outcome::Allowed(grant) => (if grant.shadowed.is_some() { "shadow" } else { "allowed" }, grant.shadowed),
        refused => ("denied", refused.denial()),
    };
    let facts = [
        ("decision", Some(outcome)),
        ("rule", Some(&*decision.rule.name)),
        ("reason", Some(denial.map_or("ok", Denial::label))),
        ("issuer", decision.evidence.issuer.as_ref().map(IssuerName::as_str)),
        ("api_client", decision.evidence.api_client.as_deref()),
    ];
    facts.into_iter().filter_map(|(name, text)| Some((name, Fact::text(text?))))
}
