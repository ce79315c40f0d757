//! Messages of the Model Context Protocol, and the rules that are for some of them.
//!
//! A request of the streamable HTTP transport carries one JSON-RPC message. Doorward does not read bodies: the proxy
//! in front does, and sends the called method and, for `tools/call`, the tool's name. The proxy reads UTF-8,
//! whatever the request's headers say of its body; a server that reads another text would run another call.

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

/// Why the message of a request is not known.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Unread {
    /// The proxy did not read exactly one message, or did not send what it read.
    Message,
    /// The request has no `content-type`, or the proxy does not send it.
    NoContentType,
    /// The body may be read as another text than UTF-8 JSON.
    ContentType,
    /// The body may be decoded before it is read.
    ContentEncoding,
}

impl Unread {
    /// For an operator.
    #[must_use]
    pub const fn detail(self) -> &'static str {
        match self {
            Self::Message => {
                "the proxy sends none: the request has another method than POST, no `accept` of both \
                 `application/json` and `text/event-stream`, or a body that is not one JSON-RPC message; or Envoy's \
                 filters `json_to_metadata` and `mcp`, or their metadata, are missing"
            }
            Self::NoContentType => {
                "there is no `content-type`: the client sends none, or `allowed_headers` of ext_authz lacks it"
            }
            Self::ContentType => "`content-type` must be `application/json`, alone or with `charset=utf-8`",
            Self::ContentEncoding => "the body has a `content-encoding`",
        }
    }
}

/// Whether servers read a body with these fields `content-type` and `content-encoding` as the proxy did.
///
/// RFC 8259 section 8.1 has JSON in UTF-8 only, and section 11 no parameter of its type; servers still decode by a
/// `charset` (`utf-7` hides the name of a tool from the proxy) and by a `content-encoding`.
pub(super) fn check_body<'a>(
    mut types: impl Iterator<Item = &'a [u8]>,
    mut codings: impl Iterator<Item = &'a [u8]>,
) -> Result<(), Unread> {
    match (types.next(), types.next()) {
        (None, _) => return Err(Unread::NoContentType),
        (Some(field), None) if is_json_in_utf8(field) => {}
        _ => return Err(Unread::ContentType),
    }
    let is_plain = |field: &[u8]| field.trim_ascii().eq_ignore_ascii_case(b"identity");
    if codings.all(is_plain) { Ok(()) } else { Err(Unread::ContentEncoding) }
}

/// Whether a `content-type` is that of JSON, alone or with `charset=utf-8` in any case and with or without quotes.
fn is_json_in_utf8(field: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(field) else { return false };
    let space = [' ', '\t'];
    let (kind, parameter) = text.split_once(';').map_or((text, None), |(kind, parameter)| (kind, Some(parameter)));
    let is_utf8 = |parameter: &str| {
        parameter.trim_matches(space).split_once('=').is_some_and(|(name, value)| {
            let value = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value);
            name.eq_ignore_ascii_case("charset") && value.eq_ignore_ascii_case("utf-8")
        })
    };
    kind.trim_matches(space).eq_ignore_ascii_case("application/json") && parameter.is_none_or(is_utf8)
}

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

    /// Whether every message of `inner` is one of this, or refused by it; true only if that is certain.
    #[must_use]
    pub fn covers(&self, inner: &Self) -> bool {
        let covered = |outer: &[NamePattern], inner: &[NamePattern]| {
            inner.iter().all(|inner| outer.iter().any(|outer| outer.covers(inner)))
        };
        let all = [NamePattern::new("*")];
        let calls = [NamePattern::new(CALL)];
        let methods = |of: &Self| match (of.tools.is_empty(), of.methods.is_empty()) {
            (false, _) => calls.to_vec(),
            (true, true) => all.to_vec(),
            (true, false) => of.methods.clone(),
        };
        let tools = if inner.tools.is_empty() { &all[..] } else { &inner.tools };
        covered(&methods(self), &methods(inner)) && (self.tools.is_empty() || covered(&self.tools, tools))
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

    /// Whether it matches every name that `inner` matches: a `*` of `inner` may be anything, so only a `*` takes it.
    #[must_use]
    pub fn covers(&self, inner: &Self) -> bool {
        self.matches(&inner.0)
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

    #[test]
    fn a_body_that_a_server_may_read_otherwise_has_no_message() {
        let with = |headers: &[(&str, &[u8])]| {
            let of = |name: &'static str| headers.iter().filter(move |field| field.0 == name).map(|field| field.1);
            check_body(of("content-type"), of("content-encoding")).err()
        };
        for good in [
            "application/json",
            "Application/JSON",
            " application/json ; charset=utf-8",
            "application/json;charset=UTF-8",
            "application/json; Charset=\"utf-8\"",
        ] {
            assert_eq!(with(&[("content-type", good.as_bytes())]), None, "{good}");
        }
        for bad in [
            "",
            "text/plain",
            "application/jsonx",
            "application/json-patch+json",
            "application/json;",
            "application/json; charset",
            "application/json; charset=",
            "application/json; charset=utf-7",
            "application/json; charset=\"utf-7\"",
            "application/json; charset='utf-8'",
            "application/json; charset=utf8",
            "application/json; charset=utf-16",
            "application/json; charset = utf-8",
            "application/json; charset=utf-8; charset=utf-7",
            "application/json; charset=utf-8, application/json; charset=utf-7",
            "application/json, application/json",
            "application/json; x=\"; charset=utf-7\"",
            "application/json; charset=utf-8\u{e9}",
        ] {
            assert_eq!(with(&[("content-type", bad.as_bytes())]), Some(Unread::ContentType), "{bad}");
        }
        let json: (&str, &[u8]) = ("content-type", b"application/json");
        assert_eq!(with(&[]), Some(Unread::NoContentType));
        assert_eq!(with(&[json, json]), Some(Unread::ContentType));
        assert_eq!(with(&[("content-type", b"application/json\xff")]), Some(Unread::ContentType));
        assert_eq!(with(&[json, ("content-encoding", b"Identity")]), None);
        for coding in ["gzip", "", "identity, deflate"] {
            assert_eq!(
                with(&[json, ("content-encoding", coding.as_bytes())]),
                Some(Unread::ContentEncoding),
                "{coding}"
            );
        }
    }

    #[test]
    fn a_rule_covers_another_only_for_certain() {
        let patterns = |texts: &str| texts.split_whitespace().map(NamePattern::new).collect::<Vec<_>>();
        for (methods, tools, of_methods, of_tools, expected) in [
            ("tools/*", "", "tools/call", "pay", true),
            ("tools/call", "", "tools/call", "pay", true),
            ("tools/call", "*", "tools/call", "pay", true),
            ("tools/call", "*", "tools/call", "", true),
            ("", "p* q", "tools/call", "q", true),
            ("", "p*y", "", "pa*y pay", true),
            ("", "", "ping", "", true),
            ("*", "", "", "", true),
            ("tools/list", "", "tools/call", "pay", false),
            ("tools/call", "pay", "tools/call", "p*", false),
            ("tools/call", "pay", "tools/call", "", false),
            ("tools/call", "*", "tools/*", "", false),
            ("tools/*", "", "", "", false),
            ("tools/call", "p*y", "", "pay*", false),
        ] {
            let outer = McpMatch { methods: patterns(methods), tools: patterns(tools) };
            let inner = McpMatch { methods: patterns(of_methods), tools: patterns(of_tools) };
            assert_eq!(outer.covers(&inner), expected, "{outer:?} {inner:?}");
        }
    }
}
