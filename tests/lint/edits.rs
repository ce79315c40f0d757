//! The clean file with one thing changed: what is a trap in every spelling that Envoy takes, and what is none.

use std::process::Command;

use super::{ROOT, lint, rules};
use crate::support::TempDir;
use crate::support::envoy;

/// `clean.yaml`, edited; each text that is replaced stands in it once.
#[track_caller]
fn edited(edits: &[(&str, &str)]) -> String {
    let clean = std::fs::read_to_string(format!("{ROOT}/tests/lint/clean.yaml")).unwrap();
    edits.iter().fold(clean, |text, (from, to)| {
        assert_eq!(text.matches(from).count(), 1, "{from}");
        text.replace(from, to)
    })
}

/// `expected` is the rule that is found, or nothing; Envoy takes the file in any case.
#[track_caller]
fn check(expected: &str, edits: &[(&str, &str)]) {
    let text = edited(edits);
    let (_, findings) = lint(&["-"], &text);
    let expected: Vec<_> = expected.split(' ').filter(|rule| !rule.is_empty()).collect();
    assert_eq!(rules(&findings), expected, "{edits:?}: {findings:#?}");
    let dir = TempDir::new();
    let path = dir.path().join("envoy.yaml");
    std::fs::write(&path, &text).unwrap();
    for binary in envoy::binaries() {
        let mut command = Command::new(&binary);
        let output = command.args(["--mode", "validate", "--log-level", "error", "-c"]).arg(&path).output().unwrap();
        assert!(output.status.success(), "{binary} {edits:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

/// A field of the ext_authz filter.
const VALIDATE: &str = "validate_mutations: true";
/// A field of the connection manager.
const REMOTE: &str = "use_remote_address: true";

#[test]
fn every_spelling_of_true_and_false() {
    let indent = "\n                      ";
    for yes in ["yes", "Yes", "on", "y", "Y", "t", "\"true\"", "'yes'", "\"1\""] {
        check("fail-open", &[(VALIDATE, &format!("{VALIDATE}{indent}failure_mode_allow: {yes}"))]);
        check("", &[("normalize_path: true", &format!("normalize_path: {yes}"))]);
    }
    for no in ["no", "off", "N", "\"false\""] {
        check("", &[(VALIDATE, &format!("{VALIDATE}{indent}failure_mode_allow: {no}"))]);
        check("path-not-normalized", &[("normalize_path: true", &format!("normalize_path: {no}"))]);
    }
    let route = "route: {cluster: upstream}";
    let kind = "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute";
    let off = format!(
        "{route}\n                          typed_per_filter_config: {{envoy.filters.http.ext_authz: {{\"@type\": {kind}, disabled: yes}}}}"
    );
    check(
        "identity-not-stripped",
        &[
            (route, &off),
            (
                "remove_on_match: {key_matcher: {safe_regex: {regex: \"x[-_.]user[-_.](id|email)\"}}}",
                "remove: x-user-id",
            ),
        ],
    );
}

#[test]
fn enums_by_number_and_numbers_in_quotes() {
    let after =
        |field: &'static str, more: &str, indent: usize| [(field, format!("{field}\n{}{more}", " ".repeat(indent)))];
    for (expected, more) in [
        ("client-certificate-header", "forward_client_cert_details: 4"),
        ("client-certificate-header", "forward_client_cert_details: always_forward_only"),
        ("", "forward_client_cert_details: 3"),
    ] {
        let [(from, to)] = after(REMOTE, more, 16);
        check(expected, &[(from, &to)]);
    }
    for (expected, share) in [
        ("ext-authz-switch", "{numerator: 100, denominator: 2}"),
        ("ext-authz-switch", "{numerator: 100, denominator: MILLION}"),
        ("ext-authz-switch", "{numerator: \"99\"}"),
        ("ext-authz-switch", "{denominator: HUNDRED}"),
        ("", "{numerator: \"100\"}"),
        ("", "{numerator: 1000000, denominator: MILLION}"),
        ("", "{numerator: 10000, denominator: 1}"),
    ] {
        let [(from, to)] = after(VALIDATE, &format!("filter_enabled: {{default_value: {share}}}"), 22);
        check(expected, &[(from, &to)]);
    }
    check("", &[("transport_api_version: V3", "transport_api_version: 2")]);
    check("", &[("UNESCAPE_AND_REDIRECT", "3")]);
    check("escaped-slashes", &[("UNESCAPE_AND_REDIRECT", "1")]);
    check("", &[("code: ServiceUnavailable", "code: \"503\"")]);
    check("status-on-error", &[("code: ServiceUnavailable", "code: \"403\"")]);
    check(
        "timeout-unbounded",
        &[("                        timeout: 1s", "                        timeout: {seconds: \"600\"}")],
    );
}
