//! All rules in their order, and the selection of those that a request must meet.
//!
//! The first rule that matches the original path wins. If servers may read the path in other ways, the
//! protecting rules of those readings must be met as well: on a case-insensitive upstream `/Admin` is
//! `/admin`, and a public `/app` before it must not open `/app/ADMIN`.

mod index;

use std::ops::Deref;

use super::denial::Denial;
use super::path::Path;
use super::refusal::Refusal;
use super::rule::{Match, PathMatch, RequestView, Rule};
use index::Index;

/// The rules, found by their paths: the cost does not grow with their number.
#[derive(Clone, Debug)]
pub struct Rules {
    all: Vec<Rule>,
    /// For the original path.
    literal: Index,
    /// For all readings of a path; protecting rules only.
    folded: Index,
    /// The paths of protecting rules in the form of readings.
    folded_paths: Vec<Option<PathMatch>>,
}

/// The rules that a request must meet: mostly one.
#[derive(Clone, Debug)]
pub struct Selected<'a> {
    pub first: &'a Rule,
    /// Protecting rules of other readings of the path.
    pub others: Vec<&'a Rule>,
}

impl Deref for Rules {
    type Target = [Rule];

    fn deref(&self) -> &[Rule] {
        &self.all
    }
}

impl Rules {
    #[must_use]
    pub fn new(rules: Vec<Rule>) -> Self {
        let folded_path = |rule: &Rule| rule.matches.as_ref().filter(|_| !rule.loosens()).map(|m| m.path.folded());
        let folded_paths: Vec<_> = rules.iter().map(folded_path).collect();
        let literal = Index::new(rules.iter().map(|rule| Some(&rule.matches.as_ref()?.path)), false);
        let folded = Index::new(folded_paths.iter().map(Option::as_ref), true);
        Self { all: rules, literal, folded, folded_paths }
    }

    /// The rule of this name.
    #[must_use]
    pub fn named(&self, name: &str) -> Option<&Rule> {
        self.all.iter().find(|rule| *rule.name == *name)
    }

    /// The rule that the route names, else the first match, else `default`; with the protecting rules of all other
    /// readings of the path. A loosening rule is always alone. A rule for certain MCP messages refuses a request whose
    /// message is unknown.
    pub fn select<'a>(&'a self, request: &RequestView<'_>, default: &'a Rule) -> Result<Selected<'a>, Refusal> {
        let path = Path::new(request.target);
        if path.is_too_odd() {
            return Err(Refusal::new(Denial::BadRequest, "the path is too long for the number of its readings"));
        }
        let named = match request.rule {
            Some(name) => Some(self.named(name).ok_or_else(|| Refusal::new(Denial::BadRequest, UNKNOWN_RULE))?),
            None => None,
        };
        let mut selected = Selection::default();
        if path.normal().is_none() {
            // Every server's interpretation is a reading, with a rule or the default.
            for reading in path.readings() {
                let rule = self.folded(reading, request, self.all.len(), |_| true);
                selected.add(rule.map_or(default, |at| &self.all[at]));
            }
            let literal = || self.literal(path.text(), request, |at| !self.all[at].loosens()).map(|at| &self.all[at]);
            selected.add(named.filter(|rule| !rule.loosens()).or_else(literal).unwrap_or(default));
        } else if let Some(rule) = named {
            selected.add(rule);
        } else {
            let literal = self.literal(path.text(), request, |_| true);
            let rule = literal.map_or(default, |at| &self.all[at]);
            // The first rule takes precedence over later ones, unless it loosens their protection.
            let end = literal.filter(|_| !rule.loosens()).unwrap_or(self.all.len());
            for reading in path.readings() {
                let hidden = |at: usize| !self.is_literal(at, path.text(), request);
                if let Some(at) = self.folded(reading, request, end, hidden) {
                    selected.add(&self.all[at]);
                }
            }
            if selected.first.is_none() || !rule.loosens() {
                selected.add(rule);
            }
        }
        let Selection { first, others } = selected;
        let mut by_match =
            first.iter().chain(&others).filter(|rule| !named.is_some_and(|named| std::ptr::eq(named, **rule)));
        let lacks = |rule: &&&Rule| rule.matches.as_ref().is_some_and(|matches| matches.lacks_message(request));
        if let Some(rule) = by_match.find(lacks) {
            return Err(Refusal::new(Denial::BadRequest, format_args!("the rule `{}` {LACKS_MESSAGE}", rule.name)));
        }
        Ok(Selected { first: first.unwrap_or(default), others })
    }

    /// The first rule for the original path.
    fn literal(&self, path: &str, request: &RequestView<'_>, wanted: impl Fn(usize) -> bool) -> Option<usize> {
        self.literal.first(path, self.all.len(), |at| self.is_literal(at, path, request) && wanted(at))
    }

    fn is_literal(&self, at: usize, path: &str, request: &RequestView<'_>) -> bool {
        let matches = |matches: &Match| matches.path.matches(path) && matches.beside_path(request);
        self.all[at].matches.as_ref().is_some_and(matches)
    }

    /// The first protecting rule before `end` for a reading of the path.
    fn folded(
        &self,
        reading: &str,
        request: &RequestView<'_>,
        end: usize,
        wanted: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        self.folded.first(reading, end, |at| {
            let path = self.folded_paths[at].as_ref().is_some_and(|path| path.matches(reading));
            let matches = |matches: &Match| matches.beside_path_loosely(request);
            path && self.all[at].matches.as_ref().is_some_and(matches) && wanted(at)
        })
    }
}

/// Why a route's choice cannot be followed. The name that it gives is shown by explaining.
const UNKNOWN_RULE: &str = "context_extensions of the route names a rule which the configuration does not have";

/// Why a request with a rule for MCP messages is refused.
const LACKS_MESSAGE: &str = "needs to know the MCP message, and the proxy names none: the request has another method \
    than POST, or a body that is not one JSON-RPC request; a call without the name of its tool; a response; or \
    Envoy's MCP filter or its metadata is missing";

/// The rules selected so far, each once; a single rule needs no allocation.
#[derive(Default)]
struct Selection<'a> {
    first: Option<&'a Rule>,
    others: Vec<&'a Rule>,
}

impl<'a> Selection<'a> {
    fn add(&mut self, rule: &'a Rule) {
        let Some(first) = self.first else {
            self.first = Some(rule);
            return;
        };
        if ![first].iter().chain(&self.others).any(|known| std::ptr::eq(*known, rule)) {
            self.others.push(rule);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mcp::{McpMatch, McpMessage, NamePattern};
    use crate::rule::{Access, HostPattern};
    use proptest::prelude::*;
    use regex::Regex;

    fn rule(name: &str, access: Access, path: PathMatch) -> Rule {
        let matches = Some(Match { path, hosts: Vec::new(), methods: Vec::new(), mcp: None });
        Rule { name: name.into(), matches, access, ..Rule::default() }
    }

    fn exact(path: &str) -> PathMatch {
        PathMatch::Exact(path.to_owned())
    }

    fn prefix(path: &str) -> PathMatch {
        PathMatch::Prefix(path.to_owned())
    }

    fn regex(pattern: &str) -> PathMatch {
        PathMatch::Regex(Regex::new(&format!("^(?:{pattern})$")).unwrap())
    }

    /// The names of all rules that `method host target` must meet, separated by spaces.
    fn select_with(rules: &Rules, method: &str, host: &str, target: &str) -> String {
        let request = RequestView { method, target, host, ..RequestView::NOTHING };
        let default = Rule::default();
        match rules.select(&request, &default) {
            Ok(selected) => {
                let names: Vec<_> = [selected.first].iter().chain(&selected.others).map(|rule| &*rule.name).collect();
                names.join(" ")
            }
            Err(refusal) => refusal.denial.label().to_owned(),
        }
    }

    #[track_caller]
    fn check(rules: &[Rule], target: &str, expected: &str) {
        let rules = Rules::new(rules.to_vec());
        assert_eq!(select_with(&rules, "GET", "shop.example.com", target), expected, "{target}");
    }

    #[test]
    fn prefixes_are_whole_segments() {
        let rules = [rule("a", Access::Public, prefix("/a"))];
        for (target, expected) in [
            ("/a", "a"),
            ("/a/", "a"),
            ("/a/b?x", "a"),
            ("/ab", "default"),
            ("/", "default"),
            ("/A", "default"),
            ("/ab/a", "default"),
        ] {
            check(&rules, target, expected);
        }
        check(&[rule("all", Access::Protected, prefix(""))], "/anything", "all");
    }

    #[test]
    fn a_rule_that_loosens_sees_only_normal_paths_and_one_that_protects_sees_through() {
        let shadow = Rule { enforce: false, ..rule("shadow", Access::Protected, prefix("/public")) };
        let admin = rule("admin", Access::Protected, prefix("/admin"));
        for loose in [rule("public", Access::Public, prefix("/public")), shadow] {
            let rules = [loose.clone(), admin.clone()];
            for target in [
                "/public/../admin",
                "/public/%2e%2e/admin",
                "/public/..;/admin",
                "/public\\..\\admin",
                "/public/..%2fadmin",
                "/public//../admin",
                "//admin",
                "//host/admin",
                "http://host/admin",
                "/x/%252e%252e/admin/y",
                "/admin%00/../x",
                "/x/..%c0%afadmin",
            ] {
                let rules = Rules::new(rules.to_vec());
                let selected = select_with(&rules, "GET", "a", target);
                let names: Vec<_> = selected.split(' ').collect();
                assert!(names.contains(&"admin") && !names.contains(&&*loose.name), "{target}: {selected}");
            }
            check(&rules, "/public/x", &loose.name);
        }
    }

    #[test]
    fn a_protection_holds_in_any_case_and_with_anything_that_trails() {
        let open_behind =
            [rule("admin", Access::Protected, exact("/app/admin")), rule("app", Access::Public, prefix("/app"))];
        for (target, expected) in [
            ("/app/admin", "admin"),
            ("/app/ADMIN", "admin"),
            ("/app/admin/", "admin"),
            ("/app/admin.", "admin"),
            ("/app/admin%20", "admin"),
            ("/app/%61dmin", "admin default"),
            ("/app/%E2%84%AAadmin", "default"),
            ("/app/Other", "app"),
            ("/app/admin/x", "app"),
            ("/App/admin", "admin default"),
            ("/APP/other", "default"),
        ] {
            check(&open_behind, target, expected);
        }
        // The lower-case form of a path may be protected by a later rule.
        let capitals =
            [rule("open", Access::Public, prefix("/Public")), rule("closed", Access::Protected, prefix("/public"))];
        check(&capitals, "/Public/x", "closed");
        check(&capitals, "/public/x", "closed");
        check(&capitals[..1], "/Public/x", "open");
        let rest = [rule("open", Access::Public, prefix("/Account")), rule("rest", Access::Protected, PathMatch::Any)];
        check(&rest, "/Account/Login", "open");
        check(&rest, "/account/login", "rest");
        let patterns =
            [rule("digits", Access::Protected, regex("/Api/v[0-9]+/x")), rule("all", Access::Public, PathMatch::Any)];
        check(&patterns, "/api/V2/X", "digits");
        check(&patterns, "/api/v2/y", "all");
    }

    #[test]
    fn every_reading_has_its_rule() {
        let rules = [
            rule("open-to-all-users", Access::Protected, exact("/api/open")),
            rule("api", Access::Protected, prefix("/api")),
        ];
        check(&rules, "/api/open", "open-to-all-users");
        check(&rules, "/api/x/%2e%2e/open", "open-to-all-users api");
        check(&rules, "/api/x;/../open", "open-to-all-users api");
        check(&rules, "/api/a%2fb", "api");
        check(&rules, &format!("/{}", "a;/".repeat(1000)), "bad_request");
    }

    #[test]
    fn methods_and_hosts_protect_as_loosely_as_servers_read_them() {
        let matches = |path, hosts: &[&str], methods: &[&str]| Match {
            path,
            hosts: hosts.iter().filter_map(|host| HostPattern::parse(host)).collect(),
            methods: methods.iter().map(|&method| method.to_owned()).collect(),
            mcp: None,
        };
        let with = |name: &str, access, matches| Rule { matches: Some(matches), ..rule(name, access, PathMatch::Any) };
        let rules = Rules::new(vec![
            with("write", Access::Protected, matches(prefix("/docs"), &[], &["POST"])),
            with("admin", Access::Protected, matches(PathMatch::Any, &["admin.example.com"], &[])),
            with("docs", Access::Public, matches(prefix("/docs"), &[], &[])),
            with("health", Access::Public, matches(exact("/healthz"), &["*.example.com"], &["GET"])),
        ]);
        for (method, host, target, expected) in [
            ("GET", "a.example.com", "/docs", "docs"),
            ("POST", "a.example.com", "/docs", "write"),
            ("post", "a.example.com", "/docs", "write"),
            ("GET", "ADMIN.example.com.:80", "/docs", "admin"),
            ("GET", "admin.example.com..", "/docs", "admin"),
            ("GET", "x@admin.example.com", "/docs", "admin"),
            ("GET", "a.example.com", "/healthz", "health"),
            ("HEAD", "a.example.com", "/healthz", "health"),
            ("get", "a.example.com", "/healthz", "default"),
            ("OPTIONS", "a.example.com", "/healthz", "default"),
            ("GET", "a.example.com..", "/healthz", "default"),
            ("GET", "x@a.example.org", "/healthz", "default"),
        ] {
            assert_eq!(select_with(&rules, method, host, target), expected, "{method} {host} {target}");
        }
    }

    #[test]
    fn a_rule_for_messages_is_asked_about_all_that_fits_it_otherwise() {
        let patterns = |texts: &[&str]| texts.iter().map(|text| NamePattern::new(text)).collect::<Vec<_>>();
        let with = |name: &str, access, methods: &[&str], tools: &[&str]| {
            let mcp = Some(McpMatch { methods: patterns(methods), tools: patterns(tools) });
            let methods = vec!["POST".to_owned()];
            let matches = Some(Match { path: prefix("/mcp"), hosts: Vec::new(), methods, mcp });
            Rule { matches, ..rule(name, access, PathMatch::Any) }
        };
        let rules = Rules::new(vec![
            with("pay", Access::Protected, &["tools/call"], &["pay_*"]),
            with("list", Access::Public, &["tools/list"], &[]),
            rule("mcp", Access::Protected, prefix("/mcp")),
        ]);
        let default = Rule::default();
        let message = |method, tool| Some(McpMessage { method, tool });
        for (method, target, mcp, expected) in [
            ("POST", "/mcp", message("tools/call", Some("pay_rent")), "pay"),
            ("post", "/MCP/x", message("tools/call", Some("pay_rent")), "pay default"),
            ("POST", "/mcp/%2e%2e/mcp", message("tools/call", Some("pay_rent")), "pay"),
            ("POST", "/mcp", message("tools/call", Some("look")), "mcp"),
            ("POST", "/mcp", message("tools/list", None), "list"),
            ("POST", "/MCP", message("tools/list", None), "mcp default"),
            ("POST", "/mcp", None, "bad_request"),
            ("POST", "/MCP", None, "bad_request"),
            ("POST", "/mcp", message("tools/call", None), "bad_request"),
            ("GET", "/mcp", None, "mcp"),
            ("DELETE", "/mcp", None, "mcp"),
            ("POST", "/other", None, "default"),
        ] {
            let request = RequestView { method, target, mcp, host: "a", ..RequestView::NOTHING };
            let selected = match rules.select(&request, &default) {
                Ok(selected) => {
                    let rules = [selected.first].into_iter().chain(selected.others);
                    rules.map(|rule| rule.name.to_string()).collect::<Vec<_>>().join(" ")
                }
                Err(refusal) => refusal.denial.label().to_owned(),
            };
            assert_eq!(selected, expected, "{method} {target} {mcp:?}");
        }
        // A route that names the rule has identified the request.
        let request = RequestView { method: "GET", target: "/mcp", rule: Some("pay"), ..RequestView::NOTHING };
        assert_eq!(&*rules.select(&request, &default).unwrap().first.name, "pay");
    }

    /// The same rules, each of them compared.
    fn linear(rules: &Rules) -> Rules {
        let all = |known: &Index| {
            let patterns = known.patterns.iter().flat_map(|patterns| &patterns.rules);
            let found = known.by_path.values().flatten().chain(&known.anywhere).chain(patterns);
            let mut anywhere: Vec<_> = found.copied().collect();
            anywhere.sort_unstable();
            Index { anywhere, ..Index::default() }
        };
        Rules { literal: all(&rules.literal), folded: all(&rules.folded), ..rules.clone() }
    }

    fn any_path() -> impl Strategy<Value = String> {
        let segment = prop_oneof![
            "[ab]",
            "[aB]{2}",
            "[a-c]",
            Just("..".to_owned()),
            Just("a;b".to_owned()),
            "[aA%25]{1,3}",
            Just(String::new())
        ];
        prop::collection::vec(segment, 0..4).prop_map(|segments| format!("/{}", segments.join("/")))
    }

    fn any_rule() -> impl Strategy<Value = Rule> {
        let path = "(/([ab]|aB|Ab|a%20)){0,3}/?";
        let path = prop_oneof![
            Just(PathMatch::Any),
            path.prop_map(PathMatch::Exact),
            "(/([ab]|aB|Ab)){0,3}".prop_map(PathMatch::Prefix),
            (
                "(/([ab]|aB)){0,2}/?",
                prop::sample::select(vec!["[ab]+", ".*", "[Ab]/b", "a?", "(a|/b)", "b|/a", "(?i:A)"])
            )
                .prop_map(|(start, end)| regex(&format!("{start}{end}"))),
            Just(PathMatch::Regex(Regex::new("/a/b|b").unwrap())),
        ];
        (path, prop_oneof![Just(Access::Public), Just(Access::Protected)])
            .prop_map(|(path, access)| rule("", access, path))
    }

    proptest! {
        #[test]
        fn looking_rules_up_finds_what_reading_them_all_finds(
            rules in prop::collection::vec(any_rule(), 0..30),
            paths in prop::collection::vec(any_path(), 1..12),
        ) {
            let named = |(at, rule): (usize, Rule)| Rule { name: at.to_string().into(), ..rule };
            let rules = Rules::new(rules.into_iter().enumerate().map(named).collect());
            let linear = linear(&rules);
            for path in paths {
                prop_assert_eq!(select_with(&rules, "GET", "a", &path), select_with(&linear, "GET", "a", &path), "{}", path);
            }
        }
    }
}
