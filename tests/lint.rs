//! `doorward lint`: silent on the shipped files, loud on every file with one fault, in whatever form.

mod claims;
mod dumps;
mod edits;

use std::path::{Path, PathBuf};
use std::process::Command;

use doorward::lint::TRAPS;
use serde_json::Value;

use crate::support::TempDir;
use crate::support::doorward::run;
use crate::support::envoy;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Rules and identity headers as the files here expect them.
const CONFIG: &str = r#"
issuers: [{name: main, issuer: "https://auth.example.com", audiences: [shop], keys: {jwks_url: "https://auth.example.com/jwks"}}]
token: {forward: false}
rules:
  - {name: assets, match: {path_prefix: /assets}, access: public}
"#;

/// One more rule, which depends on the message of a request.
const MESSAGES: &str = r#"
  - {name: pay, match: {path: /mcp, mcp: {tools: ["pay_*"]}}, require: {scopes: [pay]}}
"#;

/// A description of the resource, to which challenges lead.
const RESOURCE: &str = "resource: {identifier: https://shop.example.com}\n";

/// The YAML files of a folder and below, sorted.
fn files(folder: &str) -> Vec<PathBuf> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "yaml") {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(&Path::new(ROOT).join(folder), &mut found);
    found.sort();
    found
}

fn bad_files() -> Vec<(String, PathBuf)> {
    let name = |path: &Path| path.file_stem().unwrap().to_str().unwrap().split('.').next().unwrap().to_owned();
    files("tests/lint").into_iter().map(|path| (name(&path), path)).filter(|(rule, _)| rule != "clean").collect()
}

/// Runs the command; the exit code and the findings.
#[track_caller]
pub fn lint(args: &[&str], stdin: &str) -> (i32, Vec<Value>) {
    let (code, out, error) = run(&[&["lint", "--json"], args].concat(), stdin);
    assert!(code < 2, "{args:?}: {error}");
    let findings = serde_json::from_str::<Value>(&out).unwrap()["findings"].as_array().unwrap().clone();
    assert_eq!(code, i32::from(!findings.is_empty()));
    (code, findings)
}

/// The rules that were found, each once.
fn rules(findings: &[Value]) -> Vec<&str> {
    let mut rules: Vec<_> = findings.iter().map(|finding| finding["rule"].as_str().unwrap()).collect();
    rules.sort_unstable();
    rules.dedup();
    rules
}

#[test]
fn each_bad_file_has_exactly_its_finding_on_the_marked_line() {
    let dir = TempDir::new();
    let config = dir.path().join("doorward.yaml");
    let mut wrong = Vec::new();
    for (rule, path) in bad_files() {
        let more = match rule.split('-').next() {
            Some("mcp") => MESSAGES,
            Some("resource") => RESOURCE,
            _ => "",
        };
        std::fs::write(&config, format!("{CONFIG}{more}")).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let marked = text.lines().position(|line| line.ends_with("# <-")).unwrap() + 1;
        let file = path.to_str().unwrap();
        let (_, findings) = lint(&["--config", config.to_str().unwrap(), file], "");
        let found: Vec<_> = findings.iter().map(|f| (f["rule"].as_str(), f["line"].as_u64())).collect();
        if found != [(Some(rule.as_str()), Some(marked as u64))] {
            wrong.push(format!("{file}: {found:?}, not {rule} on line {marked}"));
        }
        let trap = TRAPS.iter().find(|trap| trap.name == rule).unwrap();
        for (name, text) in [("fix", trap.fix), ("source", trap.source)] {
            assert_eq!(findings[0][name], text, "{file}");
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_rule_has_a_bad_file_and_a_line_in_the_readme() {
    let readme = std::fs::read_to_string(format!("{ROOT}/envoy/README.md")).unwrap();
    let bad = bad_files();
    assert!(bad.len() >= 40, "{}", bad.len());
    for trap in &TRAPS {
        assert!(bad.iter().any(|(rule, _)| rule == trap.name), "{} has no file in tests/lint", trap.name);
        assert!(readme.contains(&format!("`{}`", trap.name)), "{} is not in envoy/README.md", trap.name);
    }
}

/// Envoy reports none of this: it accepts each of these files.
#[test]
fn envoy_loads_every_bad_file() {
    for binary in envoy::binaries() {
        // Modules are loaded in tests/module: older versions of Envoy cannot.
        let has_mcp = envoy::binary().as_ref() == Some(&binary);
        let has_module = |path: &Path| std::fs::read_to_string(path).unwrap().contains("DynamicModuleFilter");
        let fits = |rule: &str, path: &Path| !has_module(path) && (has_mcp || !rule.starts_with("mcp-"));
        for (_, path) in bad_files().into_iter().filter(|(rule, path)| fits(rule, path)) {
            let mut command = Command::new(&binary);
            let output =
                command.args(["--mode", "validate", "--log-level", "error", "-c"]).arg(&path).output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{binary} {}: {said}", path.display());
        }
    }
}

/// A trap for rules about messages is harmless without such rules; and without the filter such rules cannot match.
#[test]
fn the_mcp_filter_is_looked_at_where_a_rule_needs_it() {
    let dir = TempDir::new();
    let config = dir.path().join("doorward.yaml");
    let file = |name: &str| format!("{ROOT}/tests/lint/{name}.yaml");
    for (name, messages, expected) in [
        ("mcp-not-sent", "", None),
        ("mcp-ambiguous", "", None),
        ("clean", "", None),
        ("clean", MESSAGES, Some("mcp-not-sent")),
    ] {
        std::fs::write(&config, format!("{CONFIG}{messages}")).unwrap();
        let (_, findings) = lint(&["--config", config.to_str().unwrap(), &file(name)], "");
        assert_eq!(rules(&findings), expected.into_iter().collect::<Vec<_>>(), "{name} {messages}: {findings:#?}");
    }
    for name in ["mcp-after-check", "mcp-not-sent", "mcp-ambiguous", "mcp-body-unread", "mcp-forged"] {
        let (_, findings) = lint(&[&file(name)], "");
        assert_eq!(rules(&findings), [name], "the filter is there for something");
    }
}

/// The gateway and the configuration that belong together.
#[test]
fn the_mcp_example_is_clean() {
    let file = |name: &str| format!("{ROOT}/{name}");
    let (code, findings) = lint(&[&file("envoy/mcp.yaml"), "--config", &file("examples/mcp/doorward.yaml")], "");
    assert_eq!((code, findings.len()), (0, 0), "{findings:#?}");
    // On other routes the filters may be off; not on that of the rule.
    let text = std::fs::read_to_string(file("envoy/mcp.yaml")).unwrap();
    let route = "                        - match: {path_separated_prefix: /mcp}\n";
    assert_eq!(text.matches(route).count(), 1);
    let (_, findings) = lint(
        &["-", "--config", &file("examples/mcp/doorward.yaml")],
        &text.replace(route, "                        - match: {path_separated_prefix: /other}\n"),
    );
    assert_eq!(rules(&findings), ["mcp-not-sent"], "{findings:#?}");
}

#[test]
fn shipped_files_are_clean() {
    let shipped = ["envoy", "examples", "k8s"].into_iter().flat_map(files).filter(|path| {
        std::fs::read_to_string(path).unwrap().lines().any(|line| line.starts_with("static_resources:"))
    });
    let clean = Path::new(ROOT).join("tests/lint/clean.yaml");
    let shipped: Vec<_> = shipped.chain([clean]).collect();
    assert!(shipped.len() > 2);
    for path in shipped {
        // A file's head names its intended omissions.
        let text = std::fs::read_to_string(&path).unwrap();
        let allowed =
            text.lines().find_map(|line| line.strip_prefix("#     doorward lint --allow ")?.split(' ').next());
        let allowed = allowed.map(|rule| ["--allow", rule]);
        let args: Vec<_> = allowed.iter().flatten().copied().chain([path.to_str().unwrap()]).collect();
        let (_, findings) = lint(&args, "");
        assert!(findings.is_empty(), "{}: {findings:#?}", path.display());
    }
}

#[test]
fn the_command_prints_its_findings_and_unreadable_files() {
    let file = format!("{ROOT}/tests/lint/fail-open.yaml");
    let (code, text, _) = run(&["lint", &file], "");
    assert_eq!(code, 1);
    for part in [
        "fail-open.yaml:38: error: fail-open: ",
        "at  static_resources.listeners[0].filter_chains[0].filters[0].typed_config.http_filters[0].typed_config.failure_mode_allow",
        "fix failure_mode_allow: false",
        "see CVE-2024-23324",
        "1 finding",
    ] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
    let (code, github, _) = run(&["lint", &file, "--format", "github"], "");
    assert!(
        code == 1 && github.starts_with("::error file=") && github.contains(",line=38,title=fail-open::"),
        "{github}"
    );
    let (code, sarif, _) = run(&["lint", &file, "--format", "sarif"], "");
    let sarif: Value = serde_json::from_str(&sarif).unwrap();
    let result = &sarif["runs"][0]["results"][0];
    assert_eq!((code, &result["ruleId"], &result["level"]), (1, &"fail-open".into(), &"error".into()));
    let rules = sarif["runs"][0]["tool"]["driver"]["rules"].as_array().unwrap().len();
    assert_eq!(rules, TRAPS.len());
    let (_, json, _) = run(&["lint", &file, "--format", "json"], "");
    assert_eq!(json, run(&["lint", &file, "--json"], "").1);
    let (code, text, _) = run(&["lint", &file, "--allow", "fail-open"], "");
    assert!(code == 0 && text.contains("nothing found"), "{text}");
    for (args, stdin, expected) in [
        (&["lint", "/no/such/file"][..], "", "cannot be read"),
        (&["lint", "-"], "a: [", "line 1"),
        (&["lint", "-"], "a: 1\na: 2\n", "written twice"),
        (&["lint", "-"], "admin: {}\n", "no HTTP connection manager"),
        (&["lint", "-"], "", "no HTTP connection manager"),
        (&["lint", "-"], "{\"configs\": []}", "no HTTP connection manager"),
        (&["lint", &file, "--allow", "fail-opne"], "", "fail-opne"),
        (&["lint", &file, "--config", "/no/such/file"], "", "--config"),
    ] {
        let (code, out, error) = run(args, stdin);
        assert!(code == 2 && out.is_empty() && error.contains(expected), "{args:?}: {code} {out} {error}");
        // A report that a tool reads is never empty.
        if !args.contains(&"fail-opne") {
            let report = |format: &str| run(&[args, &["--format", format]].concat(), stdin);
            let (json, sarif) = (report("json"), report("sarif"));
            let read = |(code, out, _): &(i32, String, String)| (*code, serde_json::from_str::<Value>(out).unwrap());
            let (code, json) = read(&json);
            assert!(code == 2 && json["error"].as_str().unwrap().contains(expected), "{json}");
            let (code, sarif) = read(&sarif);
            let result = &sarif["runs"][0]["results"][0];
            assert!(code == 2 && result["level"] == "error", "{sarif}");
            assert!(result["message"]["text"].as_str().unwrap().contains(expected), "{sarif}");
            let (code, github, _) = report("github");
            assert!(code == 2 && github.starts_with("::error file=") && github.contains(expected), "{github}");
        }
    }
}

/// Doorward's own configuration determines the identity headers, and the headers that must be sent.
#[test]
fn a_configuration_of_doorward_makes_it_exact() {
    let dir = TempDir::new();
    let config = dir.path().join("doorward.yaml");
    let digest = "9f9f5111f7b27a781f1f1ddde5ebc2dd2b796bfc7365c9c28b548e564176929f";
    std::fs::write(
        &config,
        format!("{CONFIG}identity: {{headers: {{x-caller: user_id}}}}\napi_keys: {{keys: [{{id: web, sha256: {digest}, domains: [shop.example.com]}}]}}\nproxy: {{scheme: x-forwarded-proto, client_certificate: x-forwarded-client-cert}}\n"),
    )
    .unwrap();
    let clean = format!("{ROOT}/tests/lint/clean.yaml");
    let (_, findings) = lint(&[&clean, "--config", config.to_str().unwrap()], "");
    assert_eq!(rules(&findings), ["client-certificate-header", "header-not-sent", "no-early-strip"]);
    let said = serde_json::to_string(&findings).unwrap();
    for part in
        ["`x-caller`", "`x-api-key`", "`origin` or `referer`", "`x-forwarded-proto`", "`x-forwarded-client-cert`"]
    {
        assert!(said.contains(part), "{part} in {said}");
    }
}

/// A gateway sends the header with the client's certificate, or Envoy itself; either may remove it.
#[test]
fn the_certificate_that_doorward_reads_must_arrive() {
    let dir = TempDir::new();
    let config = dir.path().join("doorward.yaml");
    let tls = "        - transport_socket: {name: tls, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext, common_tls_context: {CONTEXT}}}\n          filters:\n";
    let validation = "validation_context: {trusted_ca: {filename: ca.pem}}";
    let clean = std::fs::read_to_string(format!("{ROOT}/tests/lint/clean.yaml")).unwrap();
    let clean = clean.replace("{exact: authorization}", "{exact: authorization}, {exact: x-forwarded-client-cert}");
    for (reads, context, expected) in [
        ("x-forwarded-client-cert", None, ["SANITIZE", "SANITIZE_SET", "FORWARD_ONLY", "APPEND_FORWARD"].as_slice()),
        ("x-forwarded-client-cert", Some(""), &["SANITIZE", "SANITIZE_SET", "FORWARD_ONLY", "APPEND_FORWARD"]),
        ("x-forwarded-client-cert", Some(validation), &["SANITIZE", "APPEND_FORWARD", "ALWAYS_FORWARD_ONLY"]),
        ("connection", Some(validation), &["ALWAYS_FORWARD_ONLY"]),
        ("connection", None, &["ALWAYS_FORWARD_ONLY"]),
    ] {
        std::fs::write(&config, format!("{CONFIG}proxy: {{client_certificate: {reads}}}\n")).unwrap();
        let mut found = Vec::new();
        for action in ["SANITIZE", "SANITIZE_SET", "FORWARD_ONLY", "APPEND_FORWARD", "ALWAYS_FORWARD_ONLY"] {
            let field = format!("use_remote_address: true\n                forward_client_cert_details: {action}");
            let text = clean.replacen("use_remote_address: true", &field, 1);
            let text = context
                .iter()
                .fold(text, |text, context| text.replacen("        - filters:\n", &tls.replace("CONTEXT", context), 1));
            let (_, findings) = lint(&["-", "--config", config.to_str().unwrap()], &text);
            match rules(&findings).as_slice() {
                [] => {}
                ["client-certificate-header"] => found.push(action),
                others => panic!("{reads} {context:?} {action}: {others:?}"),
            }
        }
        assert_eq!(found, expected, "{reads} {context:?}");
    }
}

/// Envoy's API takes fields in camel case as well, and JSON for YAML.
#[test]
fn json_and_camel_case_are_read_alike() {
    fn camel(value: Value) -> Value {
        match value {
            Value::Object(map) => map.into_iter().map(|(name, value)| (camel_name(&name), camel(value))).collect(),
            Value::Array(items) => items.into_iter().map(camel).collect(),
            other => other,
        }
    }
    fn camel_name(name: &str) -> String {
        if name.contains('.') {
            return name.to_owned(); // The key of a map, such as the name of a filter.
        }
        let mut words = name.split('_');
        let first = words.next().unwrap().to_owned();
        words.fold(first, |name, word| name + &word[..1].to_uppercase() + &word[1..])
    }
    let configured = ["unknown-rule", "internal-redirect", "resource-not-routed", "mcp-rule-named"]; // Only with Doorward's configuration.
    for (rule, path) in bad_files().into_iter().filter(|(rule, _)| !configured.contains(&rule.as_str())) {
        let value: Value = serde_saphyr::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        let text = camel(value).to_string();
        let (_, findings) = lint(&["-"], &text);
        assert_eq!(rules(&findings), [rule.as_str()], "{}", path.display());
        assert!(findings[0]["line"].is_null());
    }
}
