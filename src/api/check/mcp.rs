//! The findings of Envoy's MCP filter about a request, from the metadata of a `CheckRequest`.
//!
//! The filter parses the body and writes its findings to the dynamic metadata of its namespace, which ext_authz sends
//! with `metadata_context_namespaces` (Envoy 1.40). It also passes on bodies that it did not parse to the end, or that
//! are not an MCP message. A field that is not plainly that of one message, or that occurs twice, is `None` here: a
//! rule that depends on it then refuses the request.

use super::fields::{Fields, Value};
use crate::authz::mcp::{CALL, McpMessage};

/// The namespace of `envoy.filters.http.mcp`.
const NAMESPACE: &str = "envoy.filters.http.mcp";

/// `google.protobuf.Value` with `bool_value: true`, on the wire.
const TRUE: &[u8] = &[0x20, 1];
/// The same with `false`; a writer may omit the field instead.
const FALSE: &[u8] = &[0x20, 0];

/// The message that an `envoy.config.core.v3.Metadata` names.
pub(super) fn message(metadata: Value<'_>) -> Option<McpMessage<'_>> {
    let mut found = None;
    each_entry(metadata.bytes().ok()?, |namespace, fields| namespace != NAMESPACE || found.replace(fields).is_none())?;
    let Filtered { is_mcp, method, tool } = Filtered::read(found?)?;
    is_mcp.then_some(McpMessage { method: method?, tool: tool.filter(|_| method == Some(CALL)) })
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

    fn metadata(fields: &Json) -> Vec<u8> {
        let filter_metadata = BTreeMap::from([
            ("envoy.filters.http.other".to_owned(), structure(&json!({"method": "ping"}))),
            (NAMESPACE.to_owned(), structure(fields)),
        ]);
        Metadata { filter_metadata: filter_metadata.into_iter().collect(), ..Metadata::default() }.encode_to_vec()
    }

    /// `expected`: method and tool, as `a b`.
    #[track_caller]
    fn check(fields: &Json, expected: Option<&str>) {
        let bytes = metadata(fields);
        let read = message(Value::Bytes(&bytes));
        let told = read.map(|read| format!("{} {}", read.method, read.tool.unwrap_or("-")));
        assert_eq!(told.as_deref(), expected, "{fields}");
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
        for name in [json!(7), json!({"name": "x"}), json!(""), json!(null)] {
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
    fn what_stands_twice_is_no_message() {
        let [one, two] = ["look", "pay"]
            .map(|tool| metadata(&json!({"is_mcp_request": true, "method": "tools/call", "params": {"name": tool}})));
        assert!(message(Value::Bytes(&one)).is_some());
        assert_eq!(message(Value::Bytes(&[one.clone(), two].concat())), None, "the namespace");
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
