//! Rules by the beginning of their paths, so that a request is not compared with all of them.

use hashbrown::HashMap;
use regex::{RegexSet, RegexSetBuilder};
use regex_syntax::hir::{Hir, HirKind, Look};

use crate::readings::without_case;
use crate::rule::PathMatch;

/// Rules by the common beginning of the paths that they match.
#[derive(Clone, Debug, Default)]
pub(super) struct Index {
    /// By whole segments; each list in the order of the rules.
    pub(super) by_path: HashMap<Box<str>, Vec<usize>>,
    /// Rules that may match any path.
    pub(super) anywhere: Vec<usize>,
    /// The patterns among them, as one set if there are many.
    pub(super) patterns: Option<Patterns>,
    /// The most segments of a key: it bounds the lookups for a long path.
    pub(super) depth: usize,
}

/// Patterns that are matched together.
#[derive(Clone, Debug)]
pub(super) struct Patterns {
    joint: RegexSet,
    /// The rules they belong to, in order.
    pub(super) rules: Vec<usize>,
}

/// Fewer patterns are faster one by one.
const FEW_PATTERNS: usize = 4;

impl Index {
    /// From each rule's path; `None` for a rule that is not found by path. `folded`: the paths are
    /// case-folded.
    pub(super) fn new<'a>(paths: impl Iterator<Item = Option<&'a PathMatch>>, folded: bool) -> Self {
        let mut index = Self::default();
        let (mut patterns, mut rules) = (Vec::new(), Vec::new());
        for (at, path) in paths.enumerate() {
            let Some(path) = path else { continue };
            let key = if folded { without_case(&beginning(path)) } else { beginning(path) };
            match path {
                _ if !key.is_empty() => {
                    index.depth = index.depth.max(key.matches('/').count());
                    index.by_path.entry(key.into()).or_default().push(at);
                }
                PathMatch::Regex(regex) => {
                    patterns.push(regex.as_str());
                    rules.push(at);
                }
                _ => index.anywhere.push(at),
            }
        }
        let joint = || RegexSetBuilder::new(&patterns).case_insensitive(folded).size_limit(usize::MAX).build().ok();
        if let Some(joint) = (patterns.len() > FEW_PATTERNS).then(joint).flatten() {
            index.patterns = Some(Patterns { joint, rules });
        } else {
            index.anywhere.extend(rules);
            index.anywhere.sort_unstable();
        }
        index
    }

    /// The first matching rule before `end`, among those whose path may match.
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
        if let Some(patterns) = &self.patterns {
            let matching = patterns.joint.matches(path);
            let rules = matching.iter().map(|at| patterns.rules[at]);
            if let Some(at) = rules.take_while(|at| *at < best).find(|at| fits(*at)) {
                best = at;
            }
        }
        (best < end).then_some(best)
    }
}

/// The whole segments with which every matching path begins; empty for any path.
pub(super) fn beginning(path: &PathMatch) -> String {
    match path {
        PathMatch::Any => String::new(),
        PathMatch::Exact(path) | PathMatch::Prefix(path) => path.clone(),
        PathMatch::Regex(regex) => {
            let literal = regex_syntax::parse(regex.as_str()).map(|hir| literal_beginning(&hir)).unwrap_or_default();
            // The last segment may be incomplete.
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
            HirKind::Look(_) => {} // An assertion matches no characters.
            HirKind::Literal(literal) => match std::str::from_utf8(&literal.0) {
                Ok(literal) => text.push_str(literal),
                Err(_) => break,
            },
            _ => break,
        }
    }
    text
}
