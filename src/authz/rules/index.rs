//! Rules by what their paths begin with, so that a request is not held against all of them.

use std::collections::HashMap;

use regex_syntax::hir::{Hir, HirKind, Look};

use crate::authz::rule::PathMatch;

/// Rules by what every path they match begins with.
#[derive(Clone, Debug, Default)]
pub(super) struct Index {
    /// By whole segments; each list in the order of the rules.
    pub(super) by_path: HashMap<Box<str>, Vec<usize>>,
    /// Those that may match anywhere.
    pub(super) anywhere: Vec<usize>,
    /// The most segments of a key: a longer path has no more keys to be looked up.
    pub(super) depth: usize,
}

impl Index {
    /// From the beginning of each rule's path; `None` for a rule that is not looked for by path.
    pub(super) fn new(beginnings: impl Iterator<Item = Option<String>>) -> Self {
        let mut index = Self::default();
        for (at, key) in beginnings.enumerate() {
            match key {
                None => {}
                Some(key) if key.is_empty() => index.anywhere.push(at),
                Some(key) => {
                    index.depth = index.depth.max(key.matches('/').count());
                    index.by_path.entry(key.into()).or_default().push(at);
                }
            }
        }
        index
    }

    /// The first rule before `end` that fits, of those whose path may match.
    pub(super) fn first(&self, path: &str, end: usize, fits: impl Fn(usize) -> bool) -> Option<usize> {
        let mut best = end;
        let mut search = |rules: &[usize]| {
            if let Some(at) = rules.iter().copied().take_while(|at| *at < best).find(|at| fits(*at)) {
                best = at;
            }
        };
        let boundaries = path.bytes().enumerate().skip(1).filter(|(_, b)| *b == b'/').map(|(at, _)| at);
        for key in boundaries.take(self.depth).map(|at| &path[..at]).chain([path]) {
            if let Some(rules) = self.by_path.get(key) {
                search(rules);
            }
        }
        search(&self.anywhere);
        (best < end).then_some(best)
    }
}

/// The whole segments with which every path that matches begins; empty for anything.
pub(super) fn beginning(path: &PathMatch) -> String {
    match path {
        PathMatch::Any => String::new(),
        PathMatch::Exact(path) | PathMatch::Prefix(path) => path.clone(),
        PathMatch::Regex(regex) => {
            let literal = regex_syntax::parse(regex.as_str()).map(|hir| literal_beginning(&hir)).unwrap_or_default();
            // The last segment may go on.
            let whole = literal.rsplit_once('/').map_or("", |(whole, _)| whole);
            whole.to_owned()
        }
    }
}

/// The text with which every match begins; nothing unless the pattern is anchored to the start.
fn literal_beginning(pattern: &Hir) -> String {
    let mut text = String::new();
    let HirKind::Concat(parts) = pattern.kind() else { return text };
    if !matches!(parts.first().map(Hir::kind), Some(HirKind::Look(Look::Start))) {
        return text;
    }
    for part in &parts[1..] {
        match part.kind() {
            HirKind::Look(_) => {} // It takes no room.
            HirKind::Literal(literal) => match std::str::from_utf8(&literal.0) {
                Ok(literal) => text.push_str(literal),
                Err(_) => break,
            },
            _ => break,
        }
    }
    text
}
