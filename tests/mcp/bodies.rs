//! Bodies that a server may read otherwise than Envoy's filters, through real Envoy.

use reqwest::Method;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::rules::{Fixture, call, message};
use crate::support::raw::read_answer;
use crate::support::{PATIENCE, eventually};

/// Tools beginning with `pay_` need the scope `pay`; nothing else does.
const RULES: &str = r#"
rules:
  - {name: pay, match: {path_prefix: /mcp, mcp: {methods: [tools/call], tools: ["pay_*"]}}, require: {scopes: [pay]}}
  - {name: mcp, match: {path_prefix: /mcp}}
"#;

impl Fixture {
    /// Posts a body in pieces, each of which Envoy has read before the next is sent; the status.
    async fn pieces(&self, headers: &[(&str, &str)], pieces: &[&str], token: &str) -> u16 {
        let length: usize = pieces.iter().map(|piece| piece.len()).sum();
        let accept = ("accept", "application/json, text/event-stream");
        let (bearer, length) = (format!("Bearer {token}"), length.to_string());
        let more = [accept, ("host", "gw.test"), ("authorization", &bearer), ("content-length", &length)];
        let fields: Vec<_> = headers.iter().chain(&more).map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let exchange = async {
            let mut stream = TcpStream::connect(self.envoy.address).await.unwrap();
            let mut sent = self.received().await;
            let head = format!("POST /mcp HTTP/1.1\r\n{}\r\n", fields.concat());
            for piece in std::iter::once(head.as_str()).chain(pieces.iter().copied()) {
                if stream.write_all(piece.as_bytes()).await.is_err() {
                    break; // It is refused already.
                }
                sent += piece.len();
                let answered = async || stream.peek(&mut [0]).await.is_ok_and(|read| read > 0);
                tokio::select! {
                    () = eventually("Envoy has read the piece", || async { self.received().await >= sent }) => {}
                    true = answered() => break,
                }
            }
            read_answer(&mut stream, false).await.status
        };
        tokio::time::timeout(PATIENCE, exchange).await.unwrap()
    }

    /// The bytes that clients have sent to Envoy.
    async fn received(&self) -> usize {
        let stats = self.envoy.ask_admin("/stats?filter=http.edge.downstream_cx_rx_bytes_total").await;
        stats.trim().rsplit(' ').next().and_then(|count| count.parse().ok()).unwrap_or(0)
    }
}

const JSON: (&str, &str) = ("content-type", "application/json");

#[tokio::test(flavor = "multi_thread")]
async fn a_second_message_is_refused_wherever_the_body_is_cut() {
    let Some(fixture) = Fixture::with(RULES, |text| text).await else { return };
    let token = fixture.tokens.of("alice");
    let (look, pay) = (call("look"), call("pay_rent"));
    assert_eq!(fixture.pieces(&[JSON], &[&look], &token).await, 200);
    assert_eq!(fixture.pieces(&[JSON], &[&look[..30], &look[30..]], &token).await, 200);
    assert_eq!(fixture.pieces(&[JSON], &[&look, "\r\n  "], &token).await, 200, "white space ends it");
    assert_eq!(fixture.pieces(&[JSON], &[&pay], &token).await, 403);
    let before = fixture.upstream.seen();
    let spaces = " ".repeat(40_000);
    for pieces in [
        &[look.as_str(), pay.as_str()][..],
        &[&look, "\n", &pay],
        &[&look, &spaces[..3_000], &pay],
        &[&format!("{look}{spaces}{pay}")],
        &[&look, &format!("{spaces}{pay}")],
        &[&format!("{look}{spaces}"), &pay],
        &[&look, "x"],
        &[&look, &format!("[{pay}]")],
    ] {
        assert_eq!(fixture.pieces(&[JSON], pieces, &token).await, 400, "{pieces:.80?}");
    }
    // Behind what Envoy reads, too.
    assert_eq!(fixture.pieces(&[JSON], &[&look, &" ".repeat(70_000), &pay], &token).await, 413);
    assert_eq!(fixture.upstream.seen(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_lenient_server_may_read_otherwise_is_refused() {
    let Some(fixture) = Fixture::with(RULES, |text| text).await else { return };
    let token = fixture.tokens.of("alice");
    let params =
        |params: &str| format!("{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/call\",\"params\":{params}}}");
    let look = call("look");
    for body in [
        look.replace('"', "'"),
        look.replace("\"method\"", "method"),
        look.replace("look", "\\x70ay_rent"),
        look.replace("look", "\\160ay_rent"),
        look.replace("look", "lo\nok"),
        look.replace("look", "lo\\\nok"),
        format!("{},}}", &look[..look.len() - 1]),
        format!("/**/{look}"),
        params(r#"{"name":"look","name":["pay_rent"]}"#),
        params(r#"{"name":"look"},"params":[{"name":"pay_rent"}]"#),
        r#"{"jsonrpc":"2.0","id":1,"method":"ping","method":["tools/call"],"params":{"name":"pay_rent"}}"#.to_owned(),
        r#"{"jsonrpc":"2.0","jsonrpc":["2.0"],"id":1,"method":"ping"}"#.to_owned(),
    ] {
        assert_eq!(fixture.post("/mcp", &body, &token).await, "bad_request", "{body}");
    }
    // Escapes that every reader of JSON knows.
    for body in [look.replace("look", "l\\u006fok"), look.replace("look", "löök"), look.replace("look", "\\\"")] {
        assert_eq!(fixture.post("/mcp", &body, &token).await, "ok", "{body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_a_server_would_decode_first_is_refused() {
    let Some(fixture) = Fixture::with(RULES, |text| text).await else { return };
    let token = fixture.tokens.of("alice");
    let (look, hidden) = (call("look"), call("+AHAAYQB5-_rent"));
    for (kind, body) in [
        ("application/json; charset=utf-7", &hidden),
        ("application/json; charset=\"utf-7\"", &hidden),
        ("application/json;CHARSET=UTF-7", &hidden),
        ("application/json; charset=utf-8; charset=utf-7", &hidden),
        ("application/json; charset=utf-16", &look),
        ("application/json; charset=shift_jis", &look),
        ("application/json; x=y", &look),
    ] {
        assert_eq!(
            fixture.ask(Method::POST, "/mcp", kind, body, Some(&token)).await,
            (400, "bad_request".to_owned()),
            "{kind}"
        );
    }
    fixture.doorward.logs("`content-type` must be `application/json`, alone or with `charset=utf-8`").await;
    for kind in ["application/json", "application/json; charset=utf-8", "application/json;charset=\"UTF-8\""] {
        assert_eq!(fixture.ask(Method::POST, "/mcp", kind, &look, Some(&token)).await.0, 200, "{kind}");
    }
    let encoded = |coding: &'static str| [JSON, ("content-encoding", coding)];
    assert_eq!(fixture.pieces(&encoded("identity"), &[&look], &token).await, 200);
    for headers in [
        &encoded("deflate"),
        &encoded("gzip"),
        &[JSON, JSON],
        &[JSON, ("content-type", "application/json; charset=utf-7")],
        &[("content-type", "application/json; charset=utf-7"), JSON],
    ] {
        assert_eq!(fixture.pieces(headers, &[&look], &token).await, 400, "{headers:?}");
    }
    let marked = format!("\u{feff}{look}");
    assert_eq!(fixture.post("/mcp", &marked, &token).await, "bad_request");
}

/// The rules of the example: what is not POST carries no message, and only what the transport has is let through.
#[tokio::test(flavor = "multi_thread")]
async fn other_methods_than_those_of_the_transport_call_no_tool() {
    let example = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/mcp/doorward.yaml")).unwrap();
    let (_, rules) = example.split_once("\nrules:\n").unwrap();
    let rules = format!("rules:\n{}", rules.split("\n\n").next().unwrap());
    let Some(fixture) = Fixture::with(&rules, |text| text).await else { return };
    let token = fixture.tokens.with(serde_json::json!({"scope": "mcp"}));
    let json = "application/json";
    for method in ["PUT", "PATCH", "QUERY", "OPTIONS", "REPORT"] {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let seen = fixture.ask(method.clone(), "/mcp", json, &call("transfer_money"), Some(&token)).await;
        assert_eq!(seen, (400, "bad_request".to_owned()), "{method}");
    }
    for method in [Method::GET, Method::DELETE] {
        assert_eq!(fixture.ask(method, "/mcp", json, "", Some(&token)).await.0, 200);
    }
    assert_eq!(fixture.post("/mcp", &call("look"), &token).await, "ok");
    assert_eq!(fixture.post("/mcp", &call("transfer_money"), &token).await, "insufficient_scope");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_on_trial_refuses_nothing_and_hides_nothing() {
    let rules = r"
rules:
  - {name: trial, match: {path_prefix: /mcp, mcp: {tools: [pay_rent]}}, require: {scopes: [pay]}, enforce: false}
  - {name: mcp, match: {path_prefix: /mcp}, require: {scopes: [mcp]}}
";
    let Some(fixture) = Fixture::with(rules, |text| text).await else { return };
    let (mcp, none) = (fixture.tokens.with(serde_json::json!({"scope": "mcp"})), fixture.tokens.of("alice"));
    let json = "application/json";
    let unread = [format!("[{}]", call("pay_rent")), message("tools/call", &serde_json::json!({})), "x".to_owned()];
    for body in &unread {
        assert_eq!(fixture.post("/mcp", body, &mcp).await, "ok", "{body}");
        assert_eq!(fixture.post("/mcp", body, &none).await, "insufficient_scope", "{body}");
    }
    let utf7 = "application/json; charset=utf-7";
    assert_eq!(fixture.ask(Method::POST, "/mcp", utf7, &call("pay_rent"), Some(&none)).await.1, "insufficient_scope");
    assert_eq!(fixture.ask(Method::GET, "/mcp", json, "", Some(&mcp)).await.0, 200);
    assert_eq!(fixture.post("/mcp", &call("pay_rent"), &none).await, "ok");
    let series = "doorward_shadow_refusals_total{reason=\"insufficient_scope\",rule=\"trial\"}";
    assert_eq!(fixture.doorward.metric(series).await, Some(1.0));
}
