//! The same rows, asked of Envoy's own jwt_authn with the same keys: prints where it judges otherwise.
//!
//! Without assertions: it shows the effect of the strict reading. `COMPARE=1 ENVOY=… cargo test
//! corpus`.

use std::fmt::Write;
use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;
use serde_json::json;

use super::Expected;
use crate::support::envoy::Envoy;
use crate::support::grpc::Ask;
use crate::support::raw;

/// An issuer in the configuration of jwt_authn.
pub struct Provider {
    pub issuer: String,
    pub jwks: String,
}

/// The Envoy binary, if a comparison was asked for.
pub fn wanted() -> Option<String> {
    std::env::var_os("COMPARE")?;
    crate::support::envoy::binary()
}

fn config(providers: &[Provider]) -> String {
    let mut entries = String::new();
    let mut names = String::new();
    for (at, Provider { issuer, jwks }) in providers.iter().enumerate() {
        let entry = json!({"issuer": issuer, "audiences": [super::AUDIENCE], "forward": true, "local_jwks": {"inline_string": jwks}});
        writeln!(entries, "                p{at}: {entry}").unwrap();
        write!(names, "{{provider_name: p{at}}}, ").unwrap();
    }
    let requires = match providers {
        [_] => "{provider_name: p0}".to_owned(), // A list of one is refused.
        _ => format!("{{requires_any: {{requirements: [{names}]}}}}"),
    };
    format!(
        r#"
admin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}}}
static_resources:
  listeners:
  - address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: http
          max_request_headers_kb: 512
          route_config: {{virtual_hosts: [{{name: all, domains: ["*"], routes: [{{match: {{prefix: "/"}}, direct_response: {{status: 200}}}}]}}]}}
          http_filters:
          - name: envoy.filters.http.jwt_authn
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication
              providers:
{entries}
              rules: [{{match: {{prefix: "/"}}, requires: {requires}}}]
          - name: envoy.filters.http.router
            typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
"#
    )
}

/// Prints how many rows Envoy's filter judges otherwise, and which.
pub async fn compare(binary: &str, class: &str, providers: &[Provider], rows: &[(String, Ask, Expected)]) {
    let text = config(providers);
    let Ok(envoy) = AssertUnwindSafe(Envoy::start_text(binary, &text)).catch_unwind().await else {
        eprintln!("jwt_authn {class}: not compared, it takes no configuration with a key like these");
        return;
    };
    let (mut asked, mut lenient, mut stricter) = (0, Vec::new(), Vec::new());
    for (what, ask, expected) in rows {
        let request = ask.clone().message().attributes.unwrap().request.unwrap().http.unwrap();
        let token_only = request.path == "/" && request.method == "GET" && request.header_map.is_none();
        let Some(value) = request.headers.get("authorization").filter(|_| token_only) else { continue };
        // Requests that HTTP cannot carry are refused before any filter.
        let carried = value.bytes().all(|byte| byte >= 0x20 && byte != 0x7f);
        let status = if carried {
            raw::send(envoy.address, "GET", "/", &[("host", "shop.example.com"), ("authorization", value)]).await
        } else {
            400
        };
        asked += 1;
        match (status == 200, matches!(expected, Expected::Refused(_))) {
            (true, true) => lenient.push(what.as_str()),
            (false, false) => stricter.push(what.as_str()),
            _ => {}
        }
    }
    eprintln!("jwt_authn {class}: {asked} asked, {} let pass, {} refused more", lenient.len(), stricter.len());
    for (verdict, names) in [("let pass", lenient), ("refused", stricter)] {
        for name in names {
            let name: String = name.chars().take(100).collect();
            eprintln!("    {verdict}: {name}");
        }
    }
}
