//! Decides about a token alone, as if a request carried it: by the same decision as Check.

use super::decide::{Deciding, Query, decide_with};
use crate::authz::authorizer::Decision;
use crate::authz::rule::{RequestView, Rule};
use crate::state::{Policy, State};

/// Decides about a token by a rule; `read` extracts the needed part of the decision. `None` if the
/// decision panicked.
pub(super) async fn decide_token<T>(
    state: &State,
    token: &str,
    rule: &Rule,
    read: impl Fn(&Policy, &Decision<'_>) -> T,
) -> Option<T> {
    let (mut fields, mut target) = (Vec::new(), "/".to_owned());
    state.policy().authorizer.tokens.put(token, &mut fields, &mut target);
    let fields: Vec<_> = fields.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
    let request = RequestView { method: "POST", target: &target, headers: &fields, ..RequestView::NOTHING };
    let read = |deciding: &Deciding<'_>, decision: &Decision<'_>| read(&deciding.policy, decision);
    decide_with(Query::new(state, &request).by_rule(rule), read).await
}
