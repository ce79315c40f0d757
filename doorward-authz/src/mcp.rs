//! Messages of the Model Context Protocol, and the rules that are for some of them.
//!
//! A request of the streamable HTTP transport carries one JSON-RPC message. Doorward does not read bodies: the proxy
//! in front does, and sends the called method and, for `tools/call`, the tool's name.

/// The one MCP message of a request, as the proxy read it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct McpMessage<'a> {
    /// The JSON-RPC method; [`RESPONSE`] for a response.
    pub method: &'a str,
    /// `params.name` of [`CALL`], if it is a text that is not empty.
    pub tool: Option<&'a str>,
}

/// The method that calls a tool (MCP, Server Features, Tools).
pub const CALL: &str = "tools/call";

/// The name that Envoy's MCP filter gives to a message with `result` or `error`: a client's response to a request of
/// the server.
pub const RESPONSE: &str = "__jsonrpc_response";

/// Which messages a rule is for: both parts must fit.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct McpMatch {
    /// Any of these; empty matches all methods.
    pub methods: Vec<NamePattern>,
    /// Any of these tools; empty matches all messages. A rule with tools is for [`CALL`] alone.
    pub tools: Vec<NamePattern>,
}

/// Whether a rule is for a message.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fit {
    Yes,
    No,
    /// The match depends on an unknown part of the message: the request must not pass.
    Unknown,
}

impl McpMatch {
    /// Whether this is for a request's message; `None`: the proxy did not read exactly one.
    ///
    /// A response fits a rule that names [`RESPONSE`] only, and is unknown to all others: to the proxy a message with
    /// both `result` and `method` is a response, while a server may take it for the call that it also is.
    #[must_use]
    pub fn fit(&self, message: Option<McpMessage<'_>>) -> Fit {
        let Some(McpMessage { method, tool }) = message else { return Fit::Unknown };
        let is_named = self.methods.iter().any(|pattern| pattern.matches(method));
        if method == RESPONSE {
            return if is_named { Fit::Yes } else { Fit::Unknown };
        }
        if !self.tools.is_empty() && method == CALL {
            return match tool {
                Some(tool) if self.tools.iter().any(|pattern| pattern.matches(tool)) => Fit::Yes,
                Some(_) => Fit::No,
                None => Fit::Unknown,
            };
        }
        if self.tools.is_empty() && (is_named || self.methods.is_empty()) { Fit::Yes } else { Fit::No }
    }
}

/// A name in which `*` stands for any characters, or none. Compared byte by byte: names of MCP have letter case.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NamePattern(String);

impl NamePattern {
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// Takes as long as the two texts are, times the number of `*`.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        let Some((start, rest)) = self.0.split_once('*') else { return self.0 == name };
        let Some(mut name) = name.strip_prefix(start) else { return false };
        let mut parts: Vec<_> = rest.split('*').collect();
        let end = parts.pop().unwrap_or_default();
        for part in parts {
            let Some(at) = name.find(part) else { return false };
            name = &name[at + part.len()..];
        }
        name.ends_with(end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_is_any_characters() {
        for (pattern, name, expected) in [
            ("transfer", "transfer", true),
            ("transfer", "Transfer", false),
            ("transfer", "transfer_money", false),
            ("transfer_*", "transfer_", true),
            ("transfer_*", "transfer_money", true),
            ("transfer_*", "a_transfer_money", false),
            ("*_money", "transfer_money", true),
            ("*_money", "transfer_money_", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c-b", false),
            ("a*a", "a", false),
            ("a*a", "aa", true),
            ("a**a", "aba", true),
            ("*", "", true),
            ("é*", "é\u{0}", true),
        ] {
            assert_eq!(NamePattern::new(pattern).matches(name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn what_is_not_known_of_a_message_is_told_from_what_does_not_fit() {
        let patterns = |texts: &[&str]| texts.iter().map(|text| NamePattern::new(text)).collect::<Vec<_>>();
        let rule = |methods: &[&str], tools: &[&str]| McpMatch { methods: patterns(methods), tools: patterns(tools) };
        let message = |method, tool| Some(McpMessage { method, tool });
        for (rule, message, expected) in [
            (rule(&[], &[]), message("ping", None), Fit::Yes),
            (rule(&[], &[]), None, Fit::Unknown),
            (rule(&["tools/*"], &[]), message("tools/list", None), Fit::Yes),
            (rule(&["tools/*"], &[]), message("ping", None), Fit::No),
            (rule(&["tools/call"], &["pay_*"]), message("tools/call", Some("pay_rent")), Fit::Yes),
            (rule(&["tools/call"], &["pay_*"]), message("tools/call", Some("look")), Fit::No),
            (rule(&["tools/call"], &["pay_*"]), message("tools/call", None), Fit::Unknown),
            (rule(&["tools/call"], &["pay_*"]), message("tools/list", None), Fit::No),
            (rule(&[], &["pay_*"]), message("tools/list", Some("pay_rent")), Fit::No),
            (rule(&[], &["pay_*"]), message("tools/call", Some("pay_rent")), Fit::Yes),
            (rule(&["tools/call"], &["pay_*"]), message(RESPONSE, Some("pay_rent")), Fit::Unknown),
            (rule(&["ping"], &[]), message(RESPONSE, None), Fit::Unknown),
            (rule(&[RESPONSE], &[]), message(RESPONSE, None), Fit::Yes),
            (rule(&[], &[]), message(RESPONSE, None), Fit::Unknown),
        ] {
            assert_eq!(rule.fit(message), expected, "{rule:?} {message:?}");
        }
    }
}
