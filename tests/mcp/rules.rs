//! Rules for MCP messages, as Envoy's filter reads them, through real Envoy.

use reqwest::Method;
use serde_json::{Value, json};

use super::validate;
use crate::support::doorward::{Doorward, run};
use crate::support::envoy::{self, Envoy};
use crate::support::tokens::Tokens;
use crate::support::upstream::Upstream;

const RULES: &str = r#"
rules:
  - {name: pay, match: {path_prefix: /mcp, methods: [POST], mcp: {methods: [tools/call], tools: ["pay_*", refund]}}, require: {scopes: [pay]}}
  - {name: listing, match: {path: /mcp, methods: [POST], mcp: {methods: [tools/list, "resources/*"]}}, access: public}
  - {name: responses, match: {path: /mcp/duplex, mcp: {methods: [__jsonrpc_response]}}}
  - {name: mcp, match: {path_prefix: /mcp}}
"#;

const JSON: &str = "application/json";

pub struct Fixture {
    pub envoy: Envoy,
    pub doorward: Doorward,
    pub upstream: Upstream,
    pub tokens: Tokens,
}

impl Fixture {
    /// `edit` changes Envoy's configuration.
    async fn start(edit: impl Fn(String) -> String) -> Option<Self> {
        Self::with(RULES, edit).await
    }

    pub async fn with(rules: &str, edit: impl Fn(String) -> String) -> Option<Self> {
        let binary = envoy::binary()?;
        let (tokens, upstream) = (Tokens::new(), Upstream::start().await);
        let doorward = Doorward::start(&tokens.config(rules)).await;
        let text = envoy::text("envoy/mcp.yaml", &doorward.check, upstream.address);
        let text = text.replace("port_value: 9192", &format!("port_value: {}", doorward.http.port()));
        let envoy = Envoy::start_text(&binary, &edit(text)).await;
        Some(Self { envoy, doorward, upstream, tokens })
    }

    /// The status and, if it was refused, the reason; else the rule.
    pub async fn ask(&self, method: Method, path: &str, kind: &str, body: &str, token: Option<&str>) -> (u16, String) {
        let before = self.upstream.seen();
        let request = reqwest::Client::new().request(method, self.envoy.url(path));
        let request = request.header("content-type", kind).header("accept", "application/json, text/event-stream");
        let request = token.into_iter().fold(request.body(body.to_owned()), reqwest::RequestBuilder::bearer_auth);
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        let body: Value = response.json().await.unwrap_or_default();
        assert_eq!(self.upstream.seen() - before, usize::from(status == 200), "the upstream sees what is allowed");
        (status, body["reason"].as_str().unwrap_or("ok").to_owned())
    }

    pub async fn post(&self, path: &str, body: &str, token: &str) -> String {
        self.ask(Method::POST, path, JSON, body, Some(token)).await.1
    }
}

pub fn message(method: &str, params: &Value) -> String {
    let mut message = json!({"jsonrpc": "2.0", "id": 1, "method": method});
    if !params.is_null() {
        message["params"] = params.clone();
    }
    message.to_string()
}

pub fn call(tool: &str) -> String {
    message("tools/call", &json!({"name": tool, "arguments": {"to": "bob"}}))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_is_for_the_tool_that_is_called() {
    let Some(fixture) = Fixture::start(|text| text).await else { return };
    let (plain, pays) = (fixture.tokens.of("alice"), fixture.tokens.with(json!({"scope": "pay"})));
    let escaped = r#"{"jsonrpc":"2.0","id":1,"method":"tools\/call","params":{"n\u0061me":"pay\u005frent"}}"#;
    for (body, with, without) in [
        (call("pay_rent"), "ok", "insufficient_scope"),
        (call("pay_"), "ok", "insufficient_scope"),
        (call("refund"), "ok", "insufficient_scope"),
        (escaped.to_owned(), "ok", "insufficient_scope"),
        (call("refunds"), "ok", "ok"),
        (call("look"), "ok", "ok"),
        (message("prompts/get", &json!({"name": "pay_rent"})), "ok", "ok"),
        (message("ping", &Value::Null), "ok", "ok"),
    ] {
        for path in ["/mcp", "/mcp/", "/mcp/x"] {
            assert_eq!(fixture.post(path, &body, &pays).await, with, "{path} {body}");
            assert_eq!(fixture.post(path, &body, &plain).await, without, "{path} {body}");
        }
    }
    // If Envoy does not read the message, no tool is called.
    assert_eq!(fixture.post("/MCP", &call("pay_rent"), &pays).await, "bad_request");
    // Only a listing is open to all.
    for (method, status) in
        [("tools/list", 200), ("resources/list", 200), ("prompts/list", 401), ("tools/listing", 401)]
    {
        let body = message(method, &Value::Null);
        assert_eq!(fixture.ask(Method::POST, "/mcp", JSON, &body, None).await.0, status, "{method}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_told_is_refused_where_a_rule_needs_to_know() {
    let Some(fixture) = Fixture::start(|text| text).await else { return };
    let all = fixture.tokens.with(json!({"scope": "pay"}));
    let large = json!({"name": "look", "arguments": {"x": "a".repeat(70_000)}});
    let bodies = [
        ("a batch", format!("[{}]", call("look"))),
        ("two messages", format!("{}{}", call("look"), call("pay_rent"))),
        (
            "two names",
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"pay_rent","name":"look"}}"#.to_owned(),
        ),
        (
            "two names, one of them escaped",
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"pay_rent","n\u0061me":"look"}}"#
                .to_owned(),
        ),
        (
            "two params",
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"pay_rent"},"params":{"name":"look"}}"#
                .to_owned(),
        ),
        (
            "two methods",
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","method":"ping","params":{"name":"pay_rent"}}"#.to_owned(),
        ),
        ("no name", message("tools/call", &json!({"arguments": {}}))),
        ("no params", message("tools/call", &Value::Null)),
        ("a number", message("tools/call", &json!({"name": 7}))),
        ("an object", message("tools/call", &json!({"name": {"name": "look"}}))),
        ("a list", message("tools/call", &json!(["look"]))),
        ("an empty name", message("tools/call", &json!({"name": ""}))),
        ("half a surrogate", r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"\ud800"}}"#.to_owned()),
        ("a response", r#"{"jsonrpc":"2.0","id":1,"result":{}}"#.to_owned()),
        (
            "a response that is a call, too",
            r#"{"jsonrpc":"2.0","id":1,"result":{},"method":"tools/call","params":{"name":"pay_rent"}}"#.to_owned(),
        ),
        ("not MCP", r#"{"name": "look"}"#.to_owned()),
        ("not JSON", "look".to_owned()),
        ("nothing", String::new()),
    ];
    for (what, body) in &bodies {
        for path in ["/mcp", "/mcp/x"] {
            let (status, reason) = fixture.ask(Method::POST, path, JSON, body, Some(&all)).await;
            assert_eq!((status, reason.as_str()), (400, "bad_request"), "{what} {path}");
        }
    }
    let large = message("tools/call", &large);
    assert_eq!(fixture.ask(Method::POST, "/mcp", JSON, &large, Some(&all)).await.0, 413, "Envoy reads no more");
    for kind in ["text/plain", "Application/JSON", "application/x-www-form-urlencoded", ""] {
        let (status, reason) = fixture.ask(Method::POST, "/mcp", kind, &call("look"), Some(&all)).await;
        assert_eq!((status, reason.as_str()), (400, "bad_request"), "{kind}");
    }
    assert_eq!(
        fixture.ask(Method::POST, "/mcp", "application/json; charset=utf-8", &call("look"), Some(&all)).await.0,
        200
    );
    // The rules here are for POST, so that the transport's other methods meet the rule behind them.
    for method in [Method::GET, Method::DELETE] {
        assert_eq!(fixture.ask(method.clone(), "/mcp", JSON, "", Some(&all)).await.0, 200, "{method}");
        assert_eq!(fixture.ask(method.clone(), "/mcp", JSON, "", None).await.0, 401, "{method}");
        // A rule for all methods depends on the message of these, too.
        assert_eq!(fixture.ask(method, "/mcp/duplex", JSON, "", Some(&all)).await.1, "bad_request");
    }
    fixture.doorward.logs("needs to know the MCP message").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_that_names_responses_takes_them() {
    let rules = r#"
rules:
  - {name: responses, match: {path: /mcp, methods: [POST], mcp: {methods: [__jsonrpc_response]}}, require: {scopes: [answer]}}
  - {name: pay, match: {path: /mcp, methods: [POST], mcp: {tools: ["pay_*"]}}, require: {scopes: [pay]}}
"#;
    let Some(fixture) = Fixture::with(rules, |text| text).await else { return };
    let (plain, answers) = (fixture.tokens.of("alice"), fixture.tokens.with(json!({"scope": "answer"})));
    let response = r#"{"jsonrpc":"2.0","id":1,"result":{}}"#;
    assert_eq!(fixture.post("/mcp", response, &answers).await, "ok");
    assert_eq!(fixture.post("/mcp", response, &plain).await, "insufficient_scope");
    assert_eq!(fixture.post("/mcp", &call("look"), &plain).await, "ok");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_filters_or_what_they_say_nobody_calls_a_tool() {
    let namespaces = "metadata_context_namespaces: [envoy.filters.http.json_to_metadata, envoy.filters.http.mcp]";
    for (line, instead) in [
        (namespaces, ""),
        (namespaces, "metadata_context_namespaces: [envoy.filters.http.mcp]"),
        (namespaces, "metadata_context_namespaces: [envoy.filters.http.json_to_metadata]"),
        ("traffic_mode: PASS_THROUGH", "request_storage_mode: FILTER_STATE"),
        ("on_present: {key: name}", "on_present: {key: tool}"),
        ("- exact: content-type ", "- exact: content-type-of-others "),
    ] {
        let edit = |text: String| {
            assert_eq!(text.matches(line).count(), 1);
            text.replace(line, instead)
        };
        let Some(fixture) = Fixture::start(edit).await else { return };
        let all = fixture.tokens.with(json!({"scope": "pay"}));
        assert_eq!(fixture.post("/mcp", &call("pay_rent"), &all).await, "bad_request", "{line}");
        assert_eq!(fixture.post("/mcp", &call("look"), &all).await, "bad_request");
        assert_eq!(fixture.ask(Method::GET, "/mcp", JSON, "", Some(&all)).await.0, 200);
        if line.contains("content-type") {
            fixture.doorward.logs("or `allowed_headers` of ext_authz lacks it").await;
        }
    }
}

#[test]
fn explain_takes_a_message() {
    let tokens = Tokens::new();
    let dir = crate::support::TempDir::new();
    let config = dir.path().join("doorward.yaml");
    std::fs::write(&config, tokens.config(RULES)).unwrap();
    let config = config.to_str().unwrap();
    let explain = |more: &[&str]| {
        let base = ["explain", "--json", "--config", config, "--method", "POST", "--path", "/mcp"];
        let (_, out, error) = run(&[&base, more].concat(), "");
        let told: Value = serde_json::from_str(&out).unwrap_or_else(|_| panic!("{out}{error}"));
        (told["rule"].as_str().unwrap().to_owned(), told["reason"].as_str().unwrap().to_owned())
    };
    let token = tokens.of("alice");
    let told = |rule: &str, reason: &str| (rule.to_owned(), reason.to_owned());
    assert_eq!(
        explain(&["--mcp-method", "tools/call", "--mcp-tool", "pay_rent", &token]),
        told("pay", "insufficient_scope")
    );
    assert_eq!(explain(&["--mcp-method", "tools/list"]), told("listing", "ok"));
    let utf7 = ["--mcp-method", "tools/list", "--header", "content-type: application/json; charset=utf-7"];
    assert_eq!(explain(&utf7), told("default", "bad_request"));
    let (_, out, _) = run(&["explain", "--config", config, "--method", "POST", "--path", "/mcp"], "");
    let first = out.lines().next().unwrap();
    assert!(first.contains("the rule `pay` needs to know the MCP message"), "{out}");
    assert_eq!(explain(&[&token]), told("default", "bad_request"));
}

#[test]
fn a_match_that_fits_nothing_is_a_fault() {
    for (mcp, fault) in [
        ("{}", "is empty"),
        ("{methods: []}", "must not be empty"),
        ("{tools: [\"\"]}", "must be the name of a tool"),
        ("{tools: [\"a b\"]}", "must be the name of a tool"),
        ("{tools: [\"a*b*c*d*e*f*g*h*i*j\"]}", "must have at most 8 `*`"),
        ("{methods: [tools/list], tools: [a]}", "only `tools/call` names a tool"),
        ("{methods: [\"*\"], tools: [a]}", "only `tools/call` names a tool"),
        ("{tools: [\"pay?\"]}", "is compared literally, except for `*`"),
        ("{tools: [\"pay_[ab]\"]}", "is compared literally, except for `*`"),
        ("{tools: [\"{x}\"]}", "is compared literally, except for `*`"),
        ("{tools: [\"^pay\"]}", "is compared literally, except for `*`"),
        ("{methods: [\"tools/(call|list)\"]}", "is compared literally, except for `*`"),
    ] {
        let config = Tokens::new().config(&format!("rules: [{{name: a, match: {{mcp: {mcp}}}}}]\n"));
        let (code, said) = validate(&config);
        assert!(code == 2 && said.contains(fault), "{mcp}: {code} {said}");
    }
    let hidden = "rules: [{name: a, match: {path: /mcp}}, {name: b, match: {path: /mcp, mcp: {tools: [x]}}}]\n";
    let (code, said) = validate(&Tokens::new().config(hidden));
    assert!(code == 2 && said.contains("is never reached"), "{said}");
    // An earlier rule that takes everything of a later one, or its protection.
    let pay = "{methods: [tools/call], tools: [pay]}";
    for (first, more, then, fault) in [
        ("{methods: [\"tools/*\"]}", "access: public", pay, "is not protected"),
        ("{tools: [\"*\"]}", "access: public", pay, "is not protected"),
        ("{tools: [\"p*\", q]}", "require: {scopes: [s]}", "{tools: [q]}", "is never reached"),
        ("{methods: [tools/call]}", "enforce: false", pay, "is not protected"),
        ("{methods: [\"*\"]}", "require: {scopes: [s]}", pay, "is never reached"),
        ("{tools: [pay]}", "access: public", "{tools: [\"p*\"]}", ""),
        ("{methods: [tools/list]}", "access: public", pay, ""),
    ] {
        let rules = format!(
            "rules: [{{name: a, match: {{path: /mcp, mcp: {first}}}, {more}}}, {{name: b, match: {{path: /mcp, mcp: {then}}}}}]\n"
        );
        let (code, said) = validate(&Tokens::new().config(&rules));
        assert!(said.contains(fault) && code == if fault.is_empty() { 0 } else { 2 }, "{first} {then}: {code} {said}");
    }
    let warned = "rules: [{name: a, match: {mcp: {tools: [\"pay.*\"]}}}]\n";
    let (code, said) = validate(&Tokens::new().config(warned));
    assert!(code == 0 && said.contains("`.*` is a dot and any characters"), "{code} {said}");
    for acr in ["'a\"b'", "'c\\d'", "é", "'a b'", "[ok, 'a\"b']"] {
        let (code, said) = validate(
            &Tokens::new().config(&format!("rules: [{{name: a, match: {{path: /a}}, require: {{acr: {acr}}}}}]\n")),
        );
        assert!(code == 2 && said.contains("must be one class"), "{acr}: {code} {said}");
    }
    let (code, said) = validate(&Tokens::new().config("resource: {identifier: \"http://gw.test/mcp\"}\n"));
    assert!(code == 2 && said.contains("http is for this host alone") && !said.contains("insecure"), "{said}");
    let audience = "rules: [{name: a, match: {path: /a}, require: {audience: [nobody]}}]\n";
    let (code, said) = validate(&Tokens::new().config(audience));
    assert!(code == 2 && said.contains("must be one of the `audiences`"), "{said}");
}
