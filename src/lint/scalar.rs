//! Scalars as Envoy reads them.
//!
//! Envoy converts YAML to JSON with yaml-cpp, and JSON to a message with protobuf's reader. The two accept
//! many spellings: `yes`, `Y` and `"true"` are all true, a number may be in quotes, an enum may be its
//! number or its name in any case, and a duration may be a message. Measured on Envoy 1.40. Values that
//! Envoy refuses (`1` for true, `"on"` in quotes) need no separate treatment here.

use serde_json::Value;

pub(super) fn boolean(value: &Value) -> Option<bool> {
    let Some(text) = value.as_str() else { return value.as_bool() };
    match text.to_ascii_lowercase().as_str() {
        "true" | "t" | "yes" | "y" | "on" | "1" => Some(true),
        "false" | "f" | "no" | "n" | "off" | "0" => Some(false),
        _ => None,
    }
}

pub(super) fn number(value: &Value) -> Option<f64> {
    value.as_f64().or_else(|| value.as_str()?.parse().ok())
}

/// The name of an enum's value; `names` stand in the order of their numbers, from 0.
pub(super) fn choice(value: &Value, names: &[&'static str]) -> Option<&'static str> {
    let named = |text: &str| names.iter().find(|name| name.eq_ignore_ascii_case(text));
    let at = || value.as_u64().or_else(|| value.as_str()?.parse().ok());
    let numbered = || names.get(usize::try_from(at()?).ok()?);
    value.as_str().and_then(named).or_else(numbered).copied()
}

/// A duration in seconds: `0.25s`, or the message's `seconds` and `nanos`.
pub(super) fn seconds(value: &Value) -> Option<f64> {
    if value.is_object() {
        let part = |name: &str| value.get(name).and_then(number).unwrap_or_default();
        return Some(part("seconds") + part("nanos") / 1e9);
    }
    value.as_str()?.strip_suffix('s')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn booleans() {
        for yes in ["true", "tRUE", "T", "yes", "Y", "on", "1"] {
            assert_eq!(boolean(&json!(yes)), Some(true), "{yes}");
        }
        for no in ["false", "f", "No", "n", "OFF", "0"] {
            assert_eq!(boolean(&json!(no)), Some(false), "{no}");
        }
        assert_eq!([json!(true), json!(false)].each_ref().map(boolean), [Some(true), Some(false)]);
        for other in [json!("maybe"), json!(""), json!(null), json!({}), json!([true])] {
            assert_eq!(boolean(&other), None, "{other}");
        }
    }

    #[test]
    fn enums_by_name_and_number() {
        let names = ["ALLOW", "REJECT", "DROP"];
        for written in [json!("DROP"), json!("drop"), json!(2), json!("2")] {
            assert_eq!(choice(&written, &names), Some("DROP"), "{written}");
        }
        for other in [json!("DROPPED"), json!(3), json!(-1), json!(true), json!(null), json!("")] {
            assert_eq!(choice(&other, &names), None, "{other}");
        }
    }

    #[test]
    fn numbers_and_durations() {
        for (written, expected) in [(json!(5), Some(5.0)), (json!("5"), Some(5.0)), (json!("five"), None)] {
            assert_eq!(number(&written), expected, "{written}");
        }
        for (written, expected) in [
            (json!("0.25s"), Some(0.25)),
            (json!({"seconds": "600"}), Some(600.0)),
            (json!({"seconds": 1, "nanos": 500_000_000}), Some(1.5)),
            (json!({}), Some(0.0)),
            (json!("1m"), None),
            (json!(1), None),
        ] {
            assert_eq!(seconds(&written), expected, "{written}");
        }
    }
}
