//! The findings of Envoy's filters about a request's MCP message, from the metadata of a `CheckRequest`.
//!
//! Two filters read the body, and leave what they found in the dynamic metadata of their namespaces, which ext_authz sends
//! with `metadata_context_namespaces`. The MCP filter (Envoy 1.40) names method and tool and refuses members that stand
//! twice; it does not look behind the end of the message where that is in another part of the body, takes what is not JSON
//! and passes over lists. `json_to_metadata` reads the body as one JSON text to its end; of two members it takes one.
//! A message that the two filters read differently, or with a member that occurs twice, is `None`: a rule that needs to
//! know then refuses the request.

use super::fields::{Fields, Value};
use crate::authz::mcp::{CALL, McpMessage, RESPONSE};

/// The namespace of `envoy.filters.http.mcp`.
const NAMESPACE: &str = "envoy.filters.http.mcp";

/// The namespace of `envoy.filters.http.json_to_metadata`.
const WHOLE: &str = "envoy.filters.http.json_to_metadata";

/// `google.protobuf.Value` with `bool_value: true`, on the wire.
const TRUE: &[u8] = &[0x20, 1];
/// The same with `false`; a writer may omit the field instead.
const FALSE: &[u8] = &[0x20, 0];

/// The message that an `envoy.config.core.v3.Metadata` names.
pub(super) fn message(metadata: Value<'_>) -> Option<McpMessage<'_>> {
    let (mut found, mut whole) = (None, None);
    each_entry(metadata.bytes().ok()?, |namespace, fields| match namespace {
        NAMESPACE => found.replace(fields).is_none(),
        WHOLE => whole.replace(fields).is_none(),
        _ => true,
    })?;
    let Filtered { is_mcp, method, tool } = Filtered::read(found?)?;
    let message = McpMessage { method: method?, tool: tool.filter(|_| method == Some(CALL)) };
    (is_mcp && Whole::read(whole?)?.confirms(message)).then_some(message)
}

/// The same message in the body as a whole.
#[derive(Default)]
struct Whole<'a> {
    version: Option<&'a str>,
    method: Option<&'a str>,
    name: Option<&'a str>,
}

impl<'a> Whole<'a> {
    /// Reads a `google.protobuf.Struct`; `None` if a field stands twice. A field that is not text is absent.
    fn read(fields: &'a [u8]) -> Option<Self> {
        let (mut read, mut seen) = (Self::default(), [false; 3]);
        each_entry(fields, |name, value| {
            let (at, field) = match name {
                "jsonrpc" => (0, &mut read.version),
                "method" => (1, &mut read.method),
                "name" => (2, &mut read.name),
                _ => return true,
            };
            *field = text(value).filter(|text| !text.is_empty());
            !std::mem::replace(&mut seen[at], true)
        })?;
        Some(read)
    }

    fn confirms(&self, message: McpMessage<'_>) -> bool {
        self.version == Some("2.0")
            && (message.method == RESPONSE || self.method == Some(message.method))
            && (message.method != CALL || self.name == message.tool)
    }
}

/// The filter's findings.
#[derive(Default)]
struct Filtered<'a> {
    is_mcp: bool,
    method: Option<&'a str>,
    tool: Option<&'a str>,
}

impl<'a> Filtered<'a> {
    /// Reads a `google.protobuf.Struct`; `None` if the filter did not read the body to its end, or a field stands twice.
    fn read(fields: &'a [u8]) -> Option<Self> {
        let mut read = Self::default();
        let mut seen = [false; 3];
        let mut first = |at: usize| !std::mem::replace(&mut seen[at], true);
        each_entry(fields, |name, value| match name {
            "is_mcp_request" => {
                read.is_mcp = value == TRUE;
                first(0)
            }
            "method" => {
                read.method = text(value).filter(|method| !method.is_empty());
                first(1)
            }
            "params" => {
                let mut names = 0;
                let params = only(value, STRUCT_VALUE).and_then(|params| {
                    each_entry(params, |name, value| {
                        if name == "name" {
                            names += 1;
                            read.tool = text(value).filter(|tool| !tool.is_empty());
                        }
                        true
                    })
                });
                params.is_some() && names < 2 && first(2)
            }
            "passthrough_reason" => false,
            "is_exceeding_limit" => value == FALSE,
            "status" => text(value) == Some("mcp_ok"),
            _ => true,
        })?;
        Some(read)
    }
}

/// Fields of `google.protobuf.Value`.
const STRING_VALUE: u32 = 3;
const STRUCT_VALUE: u32 = 5;

fn text(value: &[u8]) -> Option<&str> {
    std::str::from_utf8(only(value, STRING_VALUE)?).ok()
}

/// The content of a message that has this one field alone.
fn only(message: &[u8], wanted: u32) -> Option<&[u8]> {
    let mut message = Fields(message);
    let (number, value) = message.next().ok()??;
    let is_alone = number == wanted && message.0.is_empty();
    value.bytes().ok().filter(|_| is_alone)
}

/// Passes each entry of a map from strings to messages (field 1) to `take`; `None` if an entry cannot be read, or if
/// `take` returns false.
fn each_entry<'a>(map: &'a [u8], mut take: impl FnMut(&'a str, &'a [u8]) -> bool) -> Option<()> {
    let mut map = Fields(map);
    while let Some((number, entry)) = map.next().ok()? {
        if number != 1 {
            continue;
        }
        let (mut entry, mut key, mut value) = (entry.message().ok()?, None, None);
        while let Some((number, part)) = entry.next().ok()? {
            let is_first = match number {
                1 => key.replace(part.text().ok()?).is_none(),
                2 => value.replace(part.bytes().ok()?).is_none(),
                _ => true,
            };
            if !is_first {
                return None;
            }
        }
        if !take(key.unwrap_or_default(), value.unwrap_or_default()) {
            return None;
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use envoy_types::pb::envoy::config::core::v3::Metadata;
    use envoy_types::pb::google::protobuf::{Struct, Value as PbValue, value::Kind};
    use prost::Message;
    use serde_json::{Value as Json, json};

    use super::*;

    fn value(json: &Json) -> PbValue {
        let kind = match json {
            Json::Null => Kind::NullValue(0),
            Json::Bool(truth) => Kind::BoolValue(*truth),
            Json::Number(number) => Kind::NumberValue(number.as_f64().unwrap()),
            Json::String(text) => Kind::StringValue(text.clone()),
            Json::Object(_) => Kind::StructValue(structure(json)),
            Json::Array(_) => panic!("the filter passes over lists"),
        };
        PbValue { kind: Some(kind) }
    }

    fn structure(json: &Json) -> Struct {
        let fields = json.as_object().unwrap().iter().map(|(name, json)| (name.clone(), value(json)));
        Struct { fields: fields.collect() }
    }

    /// The findings of `json_to_metadata` in the same message.
    fn whole_of(fields: &Json) -> Json {
        json!({"jsonrpc": "2.0", "method": fields["method"], "name": fields["params"]["name"]})
    }

    fn metadata(fields: &Json) -> Vec<u8> {
        metadata_with(fields, &whole_of(fields))
    }

    fn metadata_with(fields: &Json, whole: &Json) -> Vec<u8> {
        let filter_metadata = BTreeMap::from([
            ("envoy.filters.http.other".to_owned(), structure(&json!({"method": "ping"}))),
            (NAMESPACE.to_owned(), structure(fields)),
            (WHOLE.to_owned(), structure(whole)),
        ]);
        Metadata { filter_metadata: filter_metadata.into_iter().collect(), ..Metadata::default() }.encode_to_vec()
    }

    /// `expected`: method and tool, as `a b`.
    #[track_caller]
    fn check(fields: &Json, expected: Option<&str>) {
        let bytes = metadata(fields);
        let read = message(Value::Bytes(&bytes));
        let summary = read.map(|read| format!("{} {}", read.method, read.tool.unwrap_or("-")));
        assert_eq!(summary.as_deref(), expected, "{fields}");
    }

    /// As Envoy 1.40 wrote them for bodies of each kind.
    #[test]
    fn only_one_whole_message_counts() {
        let message = |method: &str| json!({"id": 1, "is_mcp_request": true, "jsonrpc": "2.0", "method": method, "status": "mcp_ok"});
        let with = |method: &str, name: &str, value: Json| {
            let mut message = message(method);
            message[name] = value;
            message
        };
        check(&message("tools/list"), Some("tools/list -"));
        check(&message("__jsonrpc_response"), Some("__jsonrpc_response -"));
        check(&with("tools/call", "params", json!({"name": "pay"})), Some("tools/call pay"));
        check(&with("prompts/get", "params", json!({"name": "pay"})), Some("prompts/get -"));
        check(&message("tools/call"), Some("tools/call -"));
        for name in [json!(7), json!({"a": "x"}), json!(""), json!(null)] {
            check(&with("tools/call", "params", json!({ "name": name })), Some("tools/call -"));
        }
        check(&with("tools/call", "params", json!("pay")), None);
        // Two messages, half a surrogate, and a body that was not read to the end.
        for (name, value) in [
            ("passthrough_reason", json!("mcp_not_jsonrpc")),
            ("passthrough_reason", json!("mcp_parse_error")),
            ("is_exceeding_limit", json!(true)),
            ("is_mcp_request", json!(false)),
            ("is_mcp_request", json!("true")),
            ("status", json!("mcp_duplicate_keys")),
            ("method", json!("")),
            ("method", json!(7)),
        ] {
            check(&with("tools/list", name, value), None);
        }
        check(&json!({"is_mcp_request": false, "passthrough_reason": "mcp_not_jsonrpc", "status": "mcp_ok"}), None);
        check(&json!({}), None);
    }

    #[test]
    fn what_the_whole_body_does_not_confirm_is_no_message() {
        let call = json!({"is_mcp_request": true, "method": "tools/call", "params": {"name": "look"}});
        let with = |name: &str, value: Json| {
            let mut whole = whole_of(&call);
            whole[name] = value;
            whole
        };
        let is_read = |fields: &Json, whole: &Json| message(Value::Bytes(&metadata_with(fields, whole))).is_some();
        assert!(is_read(&call, &whole_of(&call)));
        for (name, value) in [
            ("jsonrpc", json!(null)),
            ("jsonrpc", json!("1.0")),
            ("jsonrpc", json!(2.0)),
            ("method", json!("ping")),
            ("method", json!(null)),
            ("name", json!("pay")),
            ("name", json!(null)),
            ("name", json!({"name": "look"})),
        ] {
            assert!(!is_read(&call, &with(name, value.clone())), "{name} {value}");
        }
        assert!(!is_read(&call, &json!({})), "a body that is not JSON");
        let response = json!({"is_mcp_request": true, "method": "__jsonrpc_response"});
        assert!(is_read(&response, &json!({"jsonrpc": "2.0"})));
        assert!(!is_read(&response, &json!({})));
        let whole = structure(&whole_of(&call)).encode_to_vec();
        let again = structure(&json!({"name": "pay"})).encode_to_vec();
        assert!(Whole::read(&whole).is_some() && Whole::read(&[whole, again].concat()).is_none());
        let alone = BTreeMap::from([(NAMESPACE.to_owned(), structure(&call))]);
        let alone = Metadata { filter_metadata: alone.into_iter().collect(), ..Metadata::default() }.encode_to_vec();
        assert_eq!(message(Value::Bytes(&alone)), None);
    }

    #[test]
    fn what_stands_twice_is_no_message() {
        let call = json!({"is_mcp_request": true, "method": "tools/call", "params": {"name": "look"}});
        let one = metadata(&call);
        assert!(message(Value::Bytes(&one)).is_some());
        for namespace in [NAMESPACE, WHOLE] {
            let more = BTreeMap::from([(namespace.to_owned(), structure(&call))]);
            let more = Metadata { filter_metadata: more.into_iter().collect(), ..Metadata::default() }.encode_to_vec();
            assert_eq!(message(Value::Bytes(&[one.clone(), more].concat())), None, "{namespace}");
        }
        let call = structure(&json!({"is_mcp_request": true, "method": "tools/call"})).encode_to_vec();
        for (name, twice) in [("method", "ping"), ("is_mcp_request", "x")] {
            let again = structure(&json!({name: twice})).encode_to_vec();
            assert!(Filtered::read(&[call.clone(), again].concat()).is_none(), "{name}");
        }
        for cut in 1..one.len() {
            let _ = message(Value::Bytes(&one[..cut])); // Reading ends, whatever the result.
        }
        assert_eq!(message(Value::Other), None);
    }
}
