//! Reachability of rules: the first match wins, so an earlier broader rule hides a later one.
//!
//! Only pairs of rules are compared, and only certain results count: a regular expression is assumed to
//! cover the tried paths only.

use super::check::Check;
use super::fault::KeyPath;
use crate::authz::rule::{HostPattern, Match, PathMatch, Rule};

/// Faults for rules that no request reaches, and for protection that a looser rule takes away.
pub(super) fn check(check: &mut Check<'_>, at: &KeyPath, rules: &[Rule]) {
    for (index, later) in rules.iter().enumerate() {
        let Some(wanted) = &later.matches else { continue };
        if matches!(&wanted.path, PathMatch::Exact(path) if path.is_empty()) {
            continue; // Its pattern has a fault already.
        }
        let hides = |earlier: &&Rule| {
            // Protecting rules apply in any case.
            let any_case = later.loosens() && !earlier.loosens();
            earlier.matches.as_ref().is_some_and(|matches| covers(matches, wanted, any_case))
        };
        let hidden_by = rules[..index].iter().find(hides);
        let Some(earlier) = hidden_by else { continue };
        let name = &earlier.name;
        let message = if earlier.loosens() && !later.loosens() {
            format!(
                "is not protected: the earlier rule `{name}` matches all its requests and requires less; put \
                     this rule first"
            )
        } else {
            format!("is never reached: the earlier rule `{name}` matches all its requests; put this rule first")
        };
        check.fault(&at.index(index), message);
    }
}

/// Whether `outer` matches every request of `inner`.
fn covers(outer: &Match, inner: &Match, any_case: bool) -> bool {
    // `GET` includes `HEAD`.
    let method =
        |inner: &String| outer.methods.iter().any(|outer| inner == outer || (inner == "HEAD" && outer == "GET"));
    let methods = outer.methods.is_empty() || !inner.methods.is_empty() && inner.methods.iter().all(method);
    let host = |inner: &HostPattern| outer.hosts.iter().any(|outer| host_covers(outer, inner));
    let hosts = outer.hosts.is_empty() || !inner.hosts.is_empty() && inner.hosts.iter().all(host);
    let paths =
        path_covers(&outer.path, &inner.path) || any_case && path_covers(&outer.path.folded(), &inner.path.folded());
    methods && hosts && paths && (outer.mcp.is_none() || outer.mcp == inner.mcp)
}

fn host_covers(outer: &HostPattern, inner: &HostPattern) -> bool {
    match (outer, inner) {
        (outer, HostPattern::Exact(name)) => outer.matches(name),
        (HostPattern::Subdomains(outer), HostPattern::Subdomains(inner)) => {
            inner == outer || inner.strip_suffix(outer.as_str()).is_some_and(|rest| rest.ends_with('.'))
        }
        (HostPattern::Exact(_), HostPattern::Subdomains(_)) => false,
    }
}

fn path_covers(outer: &PathMatch, inner: &PathMatch) -> bool {
    let below = |prefix: &str, path: &str| {
        path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    match (outer, inner) {
        (PathMatch::Any, _) => true,
        (PathMatch::Exact(outer), PathMatch::Exact(inner)) => outer == inner,
        (PathMatch::Prefix(outer), PathMatch::Exact(inner) | PathMatch::Prefix(inner)) => below(outer, inner),
        (PathMatch::Regex(outer), PathMatch::Exact(inner)) => outer.is_match(inner),
        (PathMatch::Regex(outer), PathMatch::Regex(inner)) => outer.as_str() == inner.as_str() || is_all(outer),
        (PathMatch::Regex(outer), PathMatch::Any | PathMatch::Prefix(_)) => is_all(outer),
        (PathMatch::Exact(_) | PathMatch::Prefix(_), _) => false,
    }
}

/// Whether the pattern plainly matches every path.
fn is_all(regex: &regex::Regex) -> bool {
    ["^(?:.*)$", "^(?:/.*)$", "^(?:.+)$", "^(?:^.*$)$", "^(?:^/.*$)$"].contains(&regex.as_str())
}
