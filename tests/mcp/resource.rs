//! The description of the protected resource (RFC 9728), and the challenges that lead to it.

use doorward::dev::{AUDIENCE, ISSUER};
use serde_json::{Value, json};

use super::validate;
use crate::support::doorward::Doorward;
use crate::support::envoy::{self, Envoy};
use crate::support::grpc::{Checks, get};
use crate::support::tokens::Tokens;
use crate::support::upstream::Upstream;

const WELL_KNOWN: &str = "/.well-known/oauth-protected-resource";

const RULES: &str = r"
rules:
  - {name: pay, match: {path: /pay}, require: {scopes: [mcp, pay]}}
  - {name: strong, match: {path: /strong}, require: {scopes: [mcp], acr: [mfa], max_age: 15m}}
";

/// One more, for tokens of another resource than the others.
const OTHER: &str = "  - {name: other, match: {path: /other}, require: {audience: [other-shop]}}\n";

/// The answer to a request for the metadata: status, body, and the headers that caches and pages look at.
async fn ask(url: &str, host: Option<&str>) -> (u16, Value, [Option<String>; 2]) {
    let request = reqwest::Client::new().get(url);
    let response = host.into_iter().fold(request, |request, host| request.header("host", host)).send().await.unwrap();
    let header = |name: &str| response.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
    let told = ["cache-control", "access-control-allow-origin"].map(header);
    (response.status().as_u16(), response.json().await.unwrap(), told)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_is_led_to_the_issuer_through_envoy() {
    for binary in envoy::binaries() {
        let (tokens, upstream) = (Tokens::new(), Upstream::start().await);
        let resource = "resource: {scopes: [mcp, pay], documentation: https://docs.test/}\n";
        let rules = format!("{RULES}  - {{name: health, access: public}}\n  - {{name: admin}}\n");
        let doorward = Doorward::start(&tokens.config(&format!("{resource}{rules}"))).await;
        let text = envoy::text("envoy/routes.yaml", &doorward.check, upstream.address);
        let text = text.replace("port_value: 9192", &format!("port_value: {}", doorward.http.port()));
        let envoy = Envoy::start_text(&binary, &text).await;
        let origin = envoy.url("");

        let refused = reqwest::get(envoy.url("/pay?x=1")).await.unwrap();
        let challenge = refused.headers()["www-authenticate"].to_str().unwrap();
        let metadata = format!("{origin}{WELL_KNOWN}/pay");
        assert_eq!(
            (refused.status().as_u16(), challenge),
            (401, &*format!("Bearer realm=\"doorward\", scope=\"mcp pay\", resource_metadata=\"{metadata}\""))
        );
        let (status, body, told) = ask(&metadata, None).await;
        let expected = json!({
            "resource": format!("{origin}/pay"),
            "authorization_servers": [ISSUER],
            "scopes_supported": ["mcp", "pay"],
            "bearer_methods_supported": ["header"],
            "dpop_signing_alg_values_supported": body["dpop_signing_alg_values_supported"],
            "resource_documentation": "https://docs.test/",
        });
        assert_eq!((status, &body), (200, &expected));
        let algorithms = body["dpop_signing_alg_values_supported"].as_array().unwrap();
        assert!(algorithms.contains(&json!("ES256")) && !algorithms.contains(&json!("HS256")), "{body}");
        assert_eq!(told, [Some("no-store".to_owned()), Some("*".to_owned())], "it is not the same for every host");
        let (status, root, _) = ask(&format!("{origin}{WELL_KNOWN}"), None).await;
        assert_eq!((status, &root["resource"]), (200, &json!(origin)));
        // A request by another name gets that name in its answer, and no other request does.
        let (_, other, _) = ask(&metadata, Some("other.test")).await;
        assert_eq!(other["resource"], "http://other.test/pay");
        assert_eq!(upstream.seen(), 0, "the upstream is not asked");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fixed_resource_leads_nobody_elsewhere() {
    let tokens = Tokens::new();
    let resource = "resource: {identifier: \"https://api.test/mcp\"}\n";
    let doorward = Doorward::start(&tokens.config(&format!("{resource}{RULES}"))).await;
    let checks = Checks::connect(&doorward.check).await;
    let metadata = "resource_metadata=\"https://api.test/.well-known/oauth-protected-resource/mcp\"";
    for host in ["api.test", "evil.test", "evil.test\", resource_metadata=\"https://evil.test", "a@evil.test"] {
        let refused = checks.check(get("/pay").host(host).header("x-forwarded-host", "evil.test")).await;
        let challenge = &refused.headers["www-authenticate"];
        assert!(challenge.ends_with(metadata) && !challenge.contains("evil"), "{host}: {challenge}");
    }
    let url = |path: &str| format!("http://{}{WELL_KNOWN}{path}", doorward.http);
    for host in [None, Some("evil.test")] {
        let (status, body, told) = ask(&url("/mcp"), host).await;
        assert_eq!((status, &body["resource"]), (200, &json!("https://api.test/mcp")));
        assert_eq!(told[0].as_deref(), Some("public, max-age=60"));
        assert!(body.get("scopes_supported").is_none(), "{body}");
    }
    for path in ["", "/", "/other", "/mcp/"] {
        assert_eq!(ask(&url(path), None).await.0, 404, "{path}: a resource of this name is not here");
    }
    let preflight = reqwest::Client::new().request("OPTIONS".parse().unwrap(), url("/mcp")).send().await.unwrap();
    assert_eq!(
        (preflight.status().as_u16(), &preflight.headers()["access-control-allow-origin"]),
        (204, &"*".parse().unwrap())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_section_nothing_is_described() {
    let tokens = Tokens::new();
    let doorward = Doorward::start(&tokens.config(RULES)).await;
    let checks = Checks::connect(&doorward.check).await;
    assert_eq!(checks.check(get("/pay")).await.headers["www-authenticate"], "Bearer realm=\"doorward\"");
    for path in ["", "/pay"] {
        assert_eq!(ask(&format!("http://{}{WELL_KNOWN}{path}", doorward.http), None).await.0, 404);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_too_weak_steps_up() {
    let tokens = Tokens::new();
    let resource = "resource: {identifier: \"https://api.test\"}\n";
    let config = tokens.config(&format!("{resource}{RULES}{OTHER}"));
    let config = config.replacen("audiences: [", "proof: required, audiences: [other-shop, ", 1);
    let doorward = Doorward::start(&config.replace("proof: required, ", "")).await;
    let checks = Checks::connect(&doorward.check).await;
    let metadata = "resource_metadata=\"https://api.test/.well-known/oauth-protected-resource\"";
    let weak = tokens.with(json!({"scope": "mcp"}));
    let challenge = async |path: &str, token: &str| {
        let refused = checks.check(get(path).token(token)).await;
        let challenge = refused.headers.get("www-authenticate").cloned().unwrap_or_default();
        (refused.status, refused.reason().to_owned(), challenge)
    };
    let (status, reason, shown) = challenge("/pay", &weak).await;
    assert_eq!((status, reason.as_str()), (403, "insufficient_scope"));
    assert!(shown.contains("error=\"insufficient_scope\"") && shown.contains("scope=\"mcp pay\""), "{shown}");
    assert!(shown.ends_with(metadata), "{shown}");
    let (status, reason, shown) = challenge("/strong", &weak).await;
    assert_eq!((status, reason.as_str()), (401, "insufficient_authentication"));
    assert!(shown.contains("acr_values=\"mfa\"") && shown.contains("max_age=\"900\""), "{shown}");
    assert!(shown.ends_with(metadata), "{shown}");
    let strong = tokens.with(json!({"scope": "mcp pay", "acr": "mfa", "auth_time": crate::support::tokens::now()}));
    for path in ["/pay", "/strong"] {
        assert_eq!(checks.check(get(path).token(&strong)).await.status, 200, "{path}");
    }
    // A token for another resource of the same issuer (RFC 8707).
    let (status, reason, shown) = challenge("/other", &strong).await;
    assert_eq!((status, reason.as_str()), (401, "wrong_audience"));
    assert!(shown.contains("error=\"invalid_token\""), "{shown}");
    for aud in [json!("other-shop"), json!([AUDIENCE, "other-shop"])] {
        let token = tokens.with(json!({ "aud": aud }));
        assert_eq!(checks.check(get("/other").token(&token)).await.status, 200, "{aud}");
    }
    doorward.logs("`aud` is").await;

    // Where a proof is required, both challenges lead the client there.
    let doorward = Doorward::start(&config).await;
    let checks = Checks::connect(&doorward.check).await;
    let shown = checks.check(get("/pay")).await.headers["www-authenticate"].clone();
    assert!(shown.contains("Bearer ") && shown.contains("DPoP ") && shown.matches(metadata).count() == 2, "{shown}");
}

#[test]
fn what_describes_nothing_is_a_fault() {
    for (resource, fault) in [
        ("{identifier: api.test}", "must be a URL"),
        ("{identifier: \"http://api.test\"}", "must be https"),
        ("{identifier: \"https://api.test/a?b\"}", "without query"),
        ("{identifier: \"https://api.test/a//b\"}", "in normal form"),
        ("{identifier: \"https://api.test/#a\"}", "must not have a fragment"),
        ("{scopes: []}", "must not be empty"),
        ("{scopes: [\"a b\"]}", "must be one scope"),
        ("{documentation: docs}", "must be a URL"),
    ] {
        let config = Tokens::new().config(&format!("resource: {resource}\n"));
        let (code, said) = validate(&config);
        assert!(code == 2 && said.contains(fault), "{resource}: {code} {said}");
    }
}
