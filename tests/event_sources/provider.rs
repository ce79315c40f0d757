//! Against a real OpenID provider: npm's oidc-provider, certified by the OpenID Foundation.

use serde_json::{Value, json};

use super::{Edge, NodeProcess};
use crate::api::{OPERATOR, admin_keys, send};
use crate::support::eventually;
use crate::support::tokens::Tokens;

#[tokio::test(flavor = "multi_thread")]
async fn a_logout_at_the_provider_refuses_the_next_request() {
    let port = crate::ledger::support::free_port();
    let doorward = format!("http://127.0.0.1:{port}");
    let Some(provider) = NodeProcess::start("provider.mjs", &[&doorward, OPERATOR]) else { return };
    let issuer = format!("http://127.0.0.1:{}", provider.port);
    let config = format!(
        "listen: {{check: \"127.0.0.1:0\", http: \"127.0.0.1:{port}\"}}\nrevocation: {{store: embedded}}\nissuers:\n  - {{name: provider, issuer: \"{issuer}\", audiences: [demo], keys: {{discovery: true}}, backchannel_logout: {{audiences: [shop-web]}}}}\n{}",
        admin_keys()
    );
    let edge = Edge::of(Tokens::new(), &config).await;
    let login = |user: &str| {
        let tokens = provider.command(&json!({"login": user}));
        let text = |name: &str| tokens[name].as_str().unwrap_or_else(|| panic!("{name}: {tokens}")).to_owned();
        (text("access_token"), text("refresh_token"))
    };
    let verdict = |token: &str| edge.checks.check(crate::support::grpc::get("/").token(token));

    // Logged out at the provider: it notifies every client of the session, including Doorward.
    let ((alice, _), (bob, _)) = (login("alice"), login("bob"));
    let said = verdict(&alice).await;
    assert_eq!((said.headers["x-user-id"].as_str(), said.metadata["client_id"].as_str()), ("alice", "shop-web"));
    let refreshed = provider.command(&json!({"refresh": "alice"}))["access_token"].as_str().unwrap().to_owned();
    assert_eq!(edge.reason(&refreshed).await, "ok");
    let logout = async { provider.command(&json!({"logout": "alice"})) };
    let status = edge.ends_soon("oidc-provider, logout at the provider", &alice, logout).await;
    assert_eq!(status, 200);
    assert_eq!(
        (edge.reason(&alice).await.as_str(), edge.reason(&refreshed).await.as_str()),
        ("signed_out", "signed_out")
    );
    assert_eq!(edge.reason(&bob).await, "ok");
    eventually("it is counted", || async { edge.counted("backchannel_logout", "applied").await == 1 }).await;
    let (again, _) = login("alice");
    assert_eq!(edge.reason(&again).await, "ok", "who signs in again is welcome");

    // A JWT cannot be revoked at the provider, but here.
    let revoke = send(edge.form("/oauth2/revoke", &[("token", &again)]));
    assert_eq!(edge.ends("oidc-provider, access token revoked here", &again, revoke).await.status, 200);
    // Its refresh token can be revoked there: the provider's event ends the session.
    let revoke = async { provider.command(&json!({"revoke": "bob"})) };
    assert_eq!(edge.ends_soon("oidc-provider, refresh token revoked there", &bob, revoke).await, 200);
    assert_eq!(provider.command(&json!({"refresh": "bob"}))["error"], "invalid_grant");

    // An opaque refresh token cannot be read here; an ID token is not an access token, and is not revoked as
    // one.
    let tokens: Value = provider.command(&json!({"login": "carol"}));
    for (name, status) in [("refresh_token", 200), ("id_token", 200)] {
        let fields = [("token", tokens[name].as_str().unwrap()), ("token_type_hint", "refresh_token")];
        assert_eq!(send(edge.form("/oauth2/revoke", &fields)).await.status, status, "{name}");
    }
    assert_eq!(edge.reason(tokens["access_token"].as_str().unwrap()).await, "ok");
    assert_eq!(edge.reason(tokens["id_token"].as_str().unwrap()).await, "wrong_audience");
}
