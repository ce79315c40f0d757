//! A token by itself, asked about as if a request carried it: by the same decision as Check.

use super::{Caller, consider};
use crate::authz::authorizer::Decision;
use crate::authz::rule::{RequestView, Rule};
use crate::authz::token_source::TokenSource;
use crate::state::{Policy, State};

/// Decides about a token by a rule; `read` takes what is needed of the decision. `None` if it panicked.
pub(super) async fn present<T>(
    state: &State,
    token: &str,
    rule: &Rule,
    read: impl FnOnce(&Policy, &Decision<'_>) -> T,
) -> Option<T> {
    // Where the configuration looks for tokens; the first place is as good as any.
    let policy = state.policy();
    let (mut header, mut target) = (None, "/".to_owned());
    match policy.authorizer.tokens.from.first() {
        Some(TokenSource::Header { name, scheme: Some(scheme) }) => {
            header = Some((name.as_str(), format!("{scheme} {token}")));
        }
        Some(TokenSource::Header { name, scheme: None }) => header = Some((name.as_str(), token.to_owned())),
        Some(TokenSource::Cookie(name)) => header = Some(("cookie", format!("{name}={token}"))),
        Some(TokenSource::Query(name)) => target = format!("/?{name}={token}"),
        None => {}
    }
    let fields: Vec<_> = header.iter().map(|(name, value)| (*name, value.as_bytes())).collect();
    let request = RequestView { method: "POST", target: &target, host: "", headers: &fields, rule: None, source: None };
    consider(state, &request, Some(rule), Caller::default(), read).await
}
