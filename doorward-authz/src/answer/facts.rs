//! The facts of a decision for access logs and later filters.

use crate::authorizer::{Decision, Outcome};
use crate::claims::{IssuerName, fits_header, scopes};
use crate::denial::Denial;
use crate::token::VerifiedToken;

/// A fact of a decision for access logs and later filters.
#[derive(Clone, Debug, PartialEq)]
pub enum Fact<'a> {
    Text(&'a str),
    /// Since the Unix epoch.
    Seconds(i64),
    Texts(Vec<String>),
}

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
    facts.into_iter().filter_map(|(name, text)| Some((name, Fact::Text(text?))))
}

/// The facts of a verified token, allowed or refused.
///
/// Values that could not stand in a header are left out here as well: a line break in a `sid` would
/// write lines of its own into a text access log.
pub fn facts_of_token(token: &VerifiedToken) -> impl Iterator<Item = (&'static str, Fact<'_>)> {
    let scopes = scopes(token.claims()).into_iter().filter(|scope| fits_header(scope)).collect();
    let actors: Vec<_> = token.actors().filter(|actor| fits_header(actor)).map(str::to_owned).collect();
    let facts = [
        ("user_id", fitting(token.user_id())),
        ("token_id", fitting(Some(token.token_id()))),
        ("session_id", fitting(token.session_id())),
        ("client_id", fitting(token.client_id())),
        ("actor", fitting(token.actor())),
        ("actors", Some(Fact::Texts(actors)).filter(|_| token.actor().is_some())),
        ("scopes", Some(Fact::Texts(scopes))),
        ("expires_at", Some(Fact::Seconds(token.expires_at().as_secs()))),
    ];
    facts.into_iter().filter_map(|(name, fact)| Some((name, fact?)))
}

fn fitting(text: Option<&str>) -> Option<Fact<'_>> {
    text.filter(|text| fits_header(text)).map(Fact::Text)
}
