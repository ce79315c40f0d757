//! A request target, an open and a closed path: no server may find the closed resource by a target that matches the
//! open one.

use std::sync::Arc;

use doorward::authz::path::{Path, is_normal};
use doorward::authz::rule::{Access, Match, PathMatch, RequestView, Requirements, Rule};
use doorward::authz::rules::Rules;

/// The first byte: which rules; then the target, the open path and the closed one, one a line.
pub fn run(data: &[u8]) {
    let Some((&kind, text)) = data.split_first() else { return };
    let Ok(text) = std::str::from_utf8(text) else { return };
    let mut lines = text.splitn(3, '\n');
    let [target, open, closed] = [(); 3].map(|()| lines.next().unwrap_or_default());
    let path = Path::new(target);
    assert!(path.folded().starts_with('/') && path.readings().count() <= 161);
    assert!(path.normal().is_none_or(is_normal), "one word on what is normal");
    if target.len() > 4096 || !is_normal(open) || !is_normal(closed) {
        return; // No such rule can be configured.
    }
    let [open_path, closed_path] = [(1, open), (2, closed)].map(|(bit, path)| match kind & bit {
        0 => PathMatch::Prefix(path.strip_suffix('/').unwrap_or(path).to_owned()),
        _ => PathMatch::Exact(path.to_owned()),
    });
    let open_rule = match kind & 4 {
        0 => Rule { access: Access::Public, ..rule("open", open_path.clone()) },
        _ => Rule { enforce: false, ..rule("open", open_path.clone()) },
    };
    let require = Requirements { scopes: vec!["admin".to_owned()], ..Requirements::default() };
    let closed_rule = Rule { require, ..rule("closed", closed_path.clone()) };
    let open_first = kind & 8 == 0;
    let rules = Rules::new(if open_first { vec![open_rule, closed_rule] } else { vec![closed_rule, open_rule] });
    let request = RequestView { method: "GET", target, host: "a.test", ..RequestView::NOTHING };
    let default = Rule::default();
    let Ok(selected) = rules.select(&request, &default) else {
        assert!(path.is_too_odd());
        return;
    };
    let names: Vec<&str> = [selected.first].iter().chain(&selected.others).map(|rule| &*rule.name).collect();
    if names.contains(&"open") {
        assert_eq!(names, ["open"], "a rule that loosens stands alone");
        assert!(path.normal().is_some_and(|path| open_path.matches(path)), "and sees what is written");
    }
    // An open rule that comes first applies to paths that both rules match literally.
    let meant = open_first && names == ["open"] && closed_path.matches(path.text());
    if meant || names.contains(&"closed") {
        return;
    }
    for server in servers() {
        let found = server.resource(target.as_bytes());
        assert!(!is_of(&closed_path, &found), "{server:?} finds {:?}: {names:?}", String::from_utf8_lossy(&found));
    }
}

fn rule(name: &str, path: PathMatch) -> Rule {
    let matches = Some(Match { path, hosts: Vec::new(), methods: Vec::new(), mcp: None });
    Rule { name: Arc::from(name), matches, ..Rule::default() }
}

/// Whether a server may read this as the rule's resource: as written or without escapes, in any case.
fn is_of(closed: &PathMatch, resource: &[u8]) -> bool {
    let (PathMatch::Exact(path) | PathMatch::Prefix(path)) = closed else { return false };
    let prefix = matches!(closed, PathMatch::Prefix(_));
    let resource = trimmed(resource.to_ascii_lowercase());
    [path.as_bytes().to_vec(), decode(path.as_bytes())].into_iter().any(|path| {
        let path = trimmed(path.to_ascii_lowercase());
        let rest = resource.strip_prefix(path.as_slice());
        rest.is_some_and(|rest| rest.is_empty() || prefix && rest.starts_with(b"/"))
    })
}

fn trimmed(mut path: Vec<u8>) -> Vec<u8> {
    while path.last() == Some(&b'/') {
        path.pop();
    }
    path
}

/// A server's steps to a resource; written independently of the tested code.
#[derive(Clone, Copy, Debug)]
struct Server {
    decodes: usize,
    /// Parameters, as in `/a;b/c`, before or after decoding.
    parameters: Option<bool>,
    backslashes: bool,
    /// `.`, `..` and empty segments, before or after decoding, or both.
    dots: (bool, bool),
    cuts: bool,
}

fn servers() -> impl Iterator<Item = Server> {
    (0..4 * 3 * 2 * 4 * 2).map(|number: usize| {
        let bit = |at: usize| ((number / 12) >> at) & 1 == 1;
        Server {
            decodes: number % 4,
            parameters: [None, Some(false), Some(true)][number / 4 % 3],
            backslashes: bit(0),
            dots: (bit(1), bit(2)),
            cuts: bit(3),
        }
    })
}

impl Server {
    fn resource(self, target: &[u8]) -> Vec<u8> {
        let mut path = target.split(|byte| *byte == b'?').next().unwrap_or_default().to_vec();
        if self.parameters == Some(false) {
            path = without_parameters(&path);
        }
        if self.dots.0 {
            path = resolved(&path);
        }
        for _ in 0..self.decodes {
            path = decode(&path);
        }
        if self.cuts {
            path = path.split(|byte| matches!(byte, b'?' | b'#' | 0)).next().unwrap_or_default().to_vec();
        }
        if self.backslashes {
            path.iter_mut().filter(|byte| **byte == b'\\').for_each(|byte| *byte = b'/');
        }
        if self.parameters == Some(true) {
            path = without_parameters(&path);
        }
        if self.dots.1 { resolved(&path) } else { path }
    }
}

fn without_parameters(path: &[u8]) -> Vec<u8> {
    let segments: Vec<_> = path
        .split(|byte| *byte == b'/')
        .map(|segment| segment.split(|byte| *byte == b';').next().unwrap_or_default())
        .collect();
    segments.join(&b'/')
}

fn resolved(path: &[u8]) -> Vec<u8> {
    let mut segments: Vec<&[u8]> = Vec::new();
    for segment in path.split(|byte| *byte == b'/') {
        match segment {
            b"" | b"." => {}
            b".." => drop(segments.pop()),
            _ => segments.push(segment),
        }
    }
    [b"/".as_slice(), &segments.join(&b'/')].concat()
}

fn decode(path: &[u8]) -> Vec<u8> {
    let digit = |byte: Option<&u8>| byte.and_then(|byte| char::from(*byte).to_digit(16));
    let mut decoded = Vec::new();
    let mut rest = path;
    while let Some((byte, tail)) = rest.split_first() {
        rest = tail;
        match (*byte == b'%').then(|| digit(tail.first()).zip(digit(tail.get(1)))).flatten() {
            Some((high, low)) => {
                decoded.push(u8::try_from(high * 16 + low).unwrap_or_default());
                rest = &tail[2..];
            }
            None => decoded.push(*byte),
        }
    }
    decoded
}
