//! Envoy's matchers of header names, as far as lint evaluates them.

use regex::RegexBuilder;

use super::node::Node;

/// Whether a `type.matcher.v3.StringMatcher` matches a header name, which is in lower case.
pub(super) fn matches(matcher: &Node<'_>, name: &str) -> bool {
    let ignore_case = matcher.is("ignore_case");
    let text = |field: &str| {
        let text = matcher.text(field)?;
        Some(if ignore_case { text.to_ascii_lowercase() } else { text.to_owned() })
    };
    if let Some(regex) = matcher.at("safe_regex.regex") {
        // RE2's syntax, whole-string: that of the `regex` crate differs only in details that do not
        // matter for names.
        let pattern = format!("^(?:{})$", regex.value.as_str().unwrap_or_default());
        return RegexBuilder::new(&pattern).size_limit(1 << 20).build().is_ok_and(|regex| regex.is_match(name));
    }
    text("exact").is_some_and(|exact| exact == name)
        || text("prefix").is_some_and(|prefix| name.starts_with(&prefix))
        || text("suffix").is_some_and(|suffix| name.ends_with(&suffix))
        || text("contains").is_some_and(|part| name.contains(&part))
}

/// Whether any matcher of a `ListStringMatcher` matches.
pub(super) fn any_matches(list: &Node<'_>, name: &str) -> bool {
    list.list("patterns").any(|matcher| matches(&matcher, name))
}

/// Whether a list of `HeaderMutation`s removes a header, whatever its value.
pub(super) fn removes<'a>(mutations: impl Iterator<Item = Node<'a>>, name: &str) -> bool {
    mutations.into_iter().any(|mutation| {
        mutation.text("remove").is_some_and(|removed| removed.eq_ignore_ascii_case(name))
            || mutation.at("remove_on_match.key_matcher").is_some_and(|matcher| matches(&matcher, name))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::KeyPath;

    #[track_caller]
    fn check(matcher: &serde_json::Value, name: &str, expected: bool) {
        let node = Node::new(KeyPath::default(), matcher);
        assert_eq!(matches(&node, name), expected, "{matcher} {name}");
    }

    #[test]
    fn each_kind_of_matcher() {
        use serde_json::json;
        check(&json!({"exact": "cookie"}), "cookie", true);
        check(&json!({"exact": "Cookie"}), "cookie", false);
        check(&json!({"exact": "Cookie", "ignore_case": true}), "cookie", true);
        check(&json!({"exact": "Cookie", "ignoreCase": true}), "cookie", true);
        check(&json!({"prefix": "x-user-"}), "x-user-id", true);
        check(&json!({"suffix": "-id"}), "x-user-id", true);
        check(&json!({"contains": "user"}), "x-user-id", true);
        check(&json!({"contains": "users"}), "x-user-id", false);
        check(&json!({"safe_regex": {"regex": "x[-_.]user[-_.]id"}}), "x_user.id", true);
        check(&json!({"safe_regex": {"regex": "user"}}), "x-user-id", false);
        check(&json!({"safe_regex": {"regex": "("}}), "x-user-id", false);
        check(&json!({}), "x-user-id", false);
    }
}
