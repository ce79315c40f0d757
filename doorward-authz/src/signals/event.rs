//! The events of CAEP, RISC and SSF 1.0 and of RFC 9967: a closed list, each with its effect.

use serde_json::{Map, Value};

use crate::claims::{ClaimSet, Timestamp};
use crate::refusal::Refusal;
use crate::token::numeric_date;

/// The effect of an event.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Effect {
    /// The named session ends; all of the user's, if only the user is named.
    Session,
    /// Every token of the user up to now.
    User,
    Verification,
    StreamUpdated,
    /// It is known and concerns no token.
    Nothing,
}

/// The effect of an event, by its type.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Rule {
    Always(Effect),
    /// [`Effect::User`] if `change_direction` is `decrease`: tokens state the level that no longer holds.
    Decrease,
    /// [`Effect::User`] if the attribute `active` of the resource became false, or may have.
    Inactive,
}

use Rule::{Always, Decrease, Inactive};

/// By their URIs: the base and the name.
const EVENTS: [(&str, &str, Rule); 37] = [
    (CAEP, "session-revoked", Always(Effect::Session)),
    (CAEP, "token-claims-change", Always(Effect::User)),
    (CAEP, "credential-change", Always(Effect::User)),
    (CAEP, "assurance-level-change", Decrease),
    (CAEP, "device-compliance-change", Always(Effect::Nothing)),
    (CAEP, "session-established", Always(Effect::Nothing)),
    (CAEP, "session-presented", Always(Effect::Nothing)),
    (CAEP, "risk-level-change", Always(Effect::Nothing)),
    (RISC, "account-credential-change-required", Always(Effect::User)),
    (RISC, "account-purged", Always(Effect::User)),
    (RISC, "account-disabled", Always(Effect::User)),
    (RISC, "account-enabled", Always(Effect::Nothing)),
    (RISC, "identifier-changed", Always(Effect::User)),
    (RISC, "identifier-recycled", Always(Effect::User)),
    (RISC, "credential-compromise", Always(Effect::User)),
    (RISC, "opt-in", Always(Effect::Nothing)),
    (RISC, "opt-out-initiated", Always(Effect::Nothing)),
    (RISC, "opt-out-cancelled", Always(Effect::Nothing)),
    (RISC, "opt-out-effective", Always(Effect::Nothing)),
    (RISC, "recovery-activated", Always(Effect::Nothing)),
    (RISC, "recovery-information-changed", Always(Effect::Nothing)),
    (RISC, "sessions-revoked", Always(Effect::User)),
    (SCIM, "prov:delete", Always(Effect::User)),
    (SCIM, "prov:deactivate", Always(Effect::User)),
    (SCIM, "prov:put:full", Inactive),
    (SCIM, "prov:put:notice", Inactive),
    (SCIM, "prov:patch:full", Inactive),
    (SCIM, "prov:patch:notice", Inactive),
    (SCIM, "prov:create:full", Always(Effect::Nothing)),
    (SCIM, "prov:create:notice", Always(Effect::Nothing)),
    (SCIM, "prov:activate", Always(Effect::Nothing)),
    (SCIM, "feed:add", Always(Effect::Nothing)),
    (SCIM, "feed:remove", Always(Effect::Nothing)),
    (SCIM, "misc:asyncresp", Always(Effect::Nothing)),
    ("https://schemas.openid.net/secevent/oauth/event-type/", "tokens-revoked", Always(Effect::User)),
    (SSF, "verification", Always(Effect::Verification)),
    (SSF, "stream-updated", Always(Effect::StreamUpdated)),
];

const CAEP: &str = "https://schemas.openid.net/secevent/caep/event-type/";
const RISC: &str = "https://schemas.openid.net/secevent/risc/event-type/";
const SSF: &str = "https://schemas.openid.net/secevent/ssf/event-type/";
const SCIM: &str = "urn:ietf:params:scim:event:";

/// The types of events that a stream is requested to deliver: those that may have an effect on tokens. Events about the
/// stream itself are always delivered (SSF 1.0 section 8.1).
pub fn requested() -> impl Iterator<Item = String> {
    let ends_tokens =
        |rule: Rule| matches!(rule, Always(Effect::Session | Effect::User) | Rule::Decrease | Rule::Inactive);
    let of_profile = |base: &str| [CAEP, RISC, SCIM].contains(&base);
    EVENTS
        .into_iter()
        .filter(move |(base, _, rule)| of_profile(base) && ends_tokens(*rule))
        .map(|(base, name, _)| format!("{base}{name}"))
}

/// The end of an event's URI, for operators: one of a closed list.
pub(super) fn short_name(uri: &str) -> Option<&'static str> {
    listed(uri).map(|(name, _)| name)
}

fn listed(uri: &str) -> Option<(&'static str, Rule)> {
    let is_it = |base: &str, name: &str| uri.strip_prefix(base) == Some(name);
    // Drafts of RFC 9967 wrote `SCIM`; the namespace of a URN is case-sensitive after `urn:ietf:`.
    let is_draft = |base: &str, name: &str| {
        base == SCIM && uri.strip_prefix("urn:ietf:params:SCIM:event:").is_some_and(|rest| rest == name)
    };
    let found = EVENTS.iter().find(|(base, name, _)| is_it(base, name) || is_draft(base, name));
    found.map(|(_, name, rule)| (*name, *rule))
}

impl Effect {
    /// `None` for an event that is not in the list.
    #[must_use]
    pub fn of(uri: &str, event: &Map<String, Value>) -> Option<Self> {
        let (_, rule) = listed(uri)?;
        let if_so = |ends: bool| if ends { Self::User } else { Self::Nothing };
        Some(match rule {
            Always(effect) => effect,
            Decrease => if_so(event.get("change_direction").and_then(Value::as_str) == Some("decrease")),
            Inactive => if_so(deactivates(event)),
        })
    }
}

/// Whether a change of a SCIM resource (RFC 9967 sections 2.4.2 and 2.4.3) takes its `active` away. A notice names the
/// changed attributes without their values: that of `active` may be either, and tokens that end without need are
/// issued again.
///
/// Names of attributes are case-insensitive (RFC 7643 section 2.1), and may be qualified by the URN of their schema (RFC
/// 7644 section 3.10).
fn deactivates(event: &Map<String, Value>) -> bool {
    let list = |value: Option<&Value>| value.and_then(Value::as_array).cloned().unwrap_or_default();
    let names_active = |object| list(member(object, "attributes")).iter().any(is_active);
    if names_active(event) {
        return true;
    }
    let Some(data) = member(event, "data").and_then(Value::as_object) else { return false };
    // Transmitters put the attributes of a notice at either place.
    names_active(data)
        || takes_active(data)
        || list(member(data, "Operations")).iter().filter_map(Value::as_object).any(removes_active)
}

/// The schema of users (RFC 7643 section 8.2).
const USER: &str = "urn:ietf:params:scim:schemas:core:2.0:User";

fn member<'a>(object: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    object.iter().find(|(written, _)| written.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}

fn is_active(path: &Value) -> bool {
    path.as_str().is_some_and(|path| unqualified(path).eq_ignore_ascii_case("active"))
}

/// The name of an attribute without the schema of users; empty if it is the name of that schema.
fn unqualified(path: &str) -> &str {
    match path.split_at_checked(USER.len()) {
        Some((schema, rest)) if schema.eq_ignore_ascii_case(USER) => rest.strip_prefix(':').unwrap_or(rest),
        _ => path,
    }
}

/// Whether one operation of a PATCH does.
fn removes_active(operation: &Map<String, Value>) -> bool {
    let is =
        |name: &str| member(operation, "op").and_then(Value::as_str).is_some_and(|op| op.eq_ignore_ascii_case(name));
    let value = member(operation, "value");
    let takes = |value: &Value| value.as_object().is_some_and(takes_active);
    match member(operation, "path") {
        Some(path) if is_active(path) => is("remove") || value.is_some_and(is_false),
        None | Some(Value::Null) => value.is_some_and(takes),
        Some(path) => path.as_str().is_some_and(|path| unqualified(path).is_empty()) && value.is_some_and(takes),
    }
}

/// Whether a resource, or a part of one, has an `active` that is not true. Any of several spellings decides.
fn takes_active(resource: &Map<String, Value>) -> bool {
    resource.iter().any(|(name, value)| match unqualified(name) {
        "" => value.as_object().is_some_and(takes_active),
        name => name.eq_ignore_ascii_case("active") && is_false(value),
    })
}

/// Some directories write booleans as text, or as a list of objects with a `value`. `null` unassigns the attribute (RFC
/// 7643 section 2.5).
fn is_false(value: &Value) -> bool {
    match value {
        Value::Bool(active) => !active,
        Value::String(text) => text.eq_ignore_ascii_case("false"),
        Value::Null => true,
        Value::Array(values) => values.iter().any(is_false),
        Value::Object(object) => member(object, "value").is_some_and(is_false),
        Value::Number(_) => false,
    }
}

/// The time of the event: `event_timestamp` of CAEP, else `toe` of RFC 8417.
///
/// A timestamp beyond the year 5000 is read as milliseconds, as some transmitters write them. A timestamp before
/// the year 2000 precedes these specifications, such as the 0 of an empty field; it is ignored, like an unreadable
/// one, and the event is dated by its token.
pub(super) fn instant(event: &Map<String, Value>, claims: &ClaimSet) -> Result<Option<Timestamp>, Refusal> {
    const SECONDS: f64 = 1e11;
    const FIRST: Timestamp = Timestamp::from_secs(946_684_800);
    let instant = match event.get("event_timestamp") {
        Some(written) => {
            let Some(number) = written.as_f64().filter(|number| (0.0..1e15).contains(number)) else { return Ok(None) };
            let millis = if number < SECONDS { number * 1000.0 } else { number };
            #[expect(clippy::cast_possible_truncation, reason = "the range was checked above")]
            let millis = millis.floor() as i64;
            Some(Timestamp::from_millis(millis))
        }
        None => numeric_date(claims, "toe")?,
    };
    Ok(instant.filter(|instant| *instant >= FIRST))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(uri: &str, event: Value, expected: Option<Effect>) {
        let Value::Object(event) = event else { panic!("not an object") };
        assert_eq!(Effect::of(uri, &event), expected, "{uri} {event:?}");
    }

    #[test]
    fn the_requested_event_types_are_those_that_may_end_tokens() {
        let requested: Vec<_> = requested().collect();
        assert_eq!(requested.len(), 17);
        for (base, name, rule) in EVENTS {
            let uri = format!("{base}{name}");
            let inert = matches!(rule, Always(Effect::Nothing | Effect::Verification | Effect::StreamUpdated));
            assert_eq!(requested.contains(&uri), !inert && name != "tokens-revoked", "{uri}");
        }
        check(&format!("{CAEP}session-revoked/"), json!({}), None);
        check("https://evil.example/session-revoked", json!({}), None);
        check("urn:ietf:params:scim:event:prov", json!({}), None);
    }

    #[test]
    fn every_event_is_on_the_page() {
        let page = include_str!("../../../docs/shared-signals.md");
        for (_, name, rule) in EVENTS {
            let rows: Vec<_> = page.lines().filter(|line| line.contains(&format!("`{name}`"))).collect();
            let [row] = rows.as_slice() else { panic!("{name} is in {} rows", rows.len()) };
            let effect = row.split('|').nth(2).unwrap_or_default().trim();
            assert_eq!(effect.starts_with("none"), rule == Always(Effect::Nothing), "{name}: {effect}");
        }
    }

    #[test]
    fn a_lower_assurance_level_ends_tokens_and_a_higher_one_does_not() {
        let uri = format!("{CAEP}assurance-level-change");
        check(&uri, json!({"change_direction": "decrease"}), Some(Effect::User));
        check(&uri, json!({"change_direction": "increase"}), Some(Effect::Nothing));
        check(&uri, json!({"current_level": "nist-aal1"}), Some(Effect::Nothing));
    }

    const USER_ACTIVE: &str = "urn:ietf:params:scim:schemas:core:2.0:User:active";

    #[test]
    fn a_scim_resource_that_is_no_longer_active_ends_tokens() {
        for uri in ["urn:ietf:params:scim:event:prov:delete", "urn:ietf:params:SCIM:event:prov:deactivate"] {
            check(uri, json!({}), Some(Effect::User));
        }
        let patch = "urn:ietf:params:scim:event:prov:patch:full";
        let operation = |operation: Value| json!({"data": {"Operations": [{"op": "add", "path": "x"}, operation]}});
        for (event, ends) in [
            (operation(json!({"op": "replace", "path": "active", "value": false})), true),
            (operation(json!({"op": "Replace", "path": "active", "value": "False"})), true),
            (operation(json!({"op": "replace", "value": {"active": false}})), true),
            (operation(json!({"op": "remove", "path": "active"})), true),
            (operation(json!({"op": "replace", "path": "active", "value": true})), false),
            (operation(json!({"op": "replace", "path": "title", "value": {"active": false}})), false),
            (operation(json!({"op": "replace", "path": USER_ACTIVE, "value": false})), true),
            (operation(json!({"op": "remove", "path": USER_ACTIVE.to_uppercase()})), true),
            (operation(json!({"op": "replace", "path": "urn:example:2.0:Other:active", "value": false})), false),
            (operation(json!({"op": "replace", "value": {"Active": false}})), true),
            (operation(json!({"OP": "replace", "Value": {USER_ACTIVE: "FALSE"}})), true),
            (operation(json!({"op": "replace", "value": {USER: {"active": false}}})), true),
            (operation(json!({"op": "replace", "path": USER, "value": {"active": false}})), true),
            (operation(json!({"op": "Replace", "path": "active", "value": [{"value": "False"}]})), true),
            (operation(json!({"op": "Replace", "path": "active", "value": [{"value": "True"}]})), false),
            (operation(json!({"op": "replace", "path": "active", "value": null})), true),
            (operation(json!({"op": "replace", "path": null, "value": {"active": null}})), true),
            (operation(json!({"op": "replace", "path": "active"})), false),
            (json!({"data": {"operations": [{"op": "replace", "path": "active", "value": false}]}}), true),
            (json!({"data": {"Operations": [1, "active", null]}}), false),
            (json!({"data": {"Operations": 1}}), false),
            (json!({}), false),
        ] {
            check(patch, event, Some(if ends { Effect::User } else { Effect::Nothing }));
        }
        let put = "urn:ietf:params:scim:event:prov:put:full";
        check(put, json!({"data": {"userName": "a", "active": false}}), Some(Effect::User));
        check(put, json!({"data": {"userName": "a", "active": true}}), Some(Effect::Nothing));
        check(put, json!({"data": {"userName": "a", "Active": false}}), Some(Effect::User));
        check(put, json!({"data": {"active": true, USER_ACTIVE: false}}), Some(Effect::User));
        check(put, json!({"data": {"userName": "a"}}), Some(Effect::Nothing));
        let notice = "urn:ietf:params:scim:event:prov:patch:notice";
        check(notice, json!({"attributes": ["name", "active"]}), Some(Effect::User));
        check(notice, json!({"attributes": ["name", USER_ACTIVE]}), Some(Effect::User));
        check(notice, json!({"data": {"attributes": ["name", "active"]}}), Some(Effect::User));
        check(notice, json!({"data": {"attributes": ["name"]}}), Some(Effect::Nothing));
        check(notice, json!({"attributes": ["name"]}), Some(Effect::Nothing));
        check("urn:ietf:params:scim:event:feed:remove", json!({}), Some(Effect::Nothing));
    }
}
