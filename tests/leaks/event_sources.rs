//! The ways in for other servers, with secrets in every place of their messages.

use serde_json::{Value, json};

use super::{ADMIN_KEY, PUSH_TOKEN, marked};
use crate::support::tokens::{Tokens, now};

/// Their configuration: a transmitter that cannot be reached, and such a webhook.
pub fn config(tokens: &Tokens) -> String {
    format!(
        r#"
signals:
  transmitters:
  - issuer: "https://signals.test"
    audience: doorward
    target_issuer: dev
    keys: {{jwks: {keys}}}
    push: {{token: {PUSH_TOKEN}}}
    poll: {{url: "http://127.0.0.1:9/canary-poll", token: {PUSH_TOKEN}, interval: 1s}}
  - issuer: "http://127.0.0.1:9/canary-path"
    audience: "https://doorward.test/global-token-revocation"
    target_issuer: dev
    keys: {{jwks: {keys}}}
    stream: {{push_url: "http://127.0.0.1:9/canary-push", token: {PUSH_TOKEN}}}
"#,
        keys = tokens.issuer.jwks(),
    )
}

/// Path, type and body of each request, and its credential.
pub fn requests(tokens: &Tokens) -> Vec<(&'static str, &'static str, String, String)> {
    let form = "application/x-www-form-urlencoded";
    let sign = |typ: &str, changes: &Value| {
        let mut claims = marked();
        for (name, value) in changes.as_object().unwrap() {
            claims[name] = value.clone();
        }
        let header = json!({"alg": "ES256", "kid": tokens.issuer.key_id(), "typ": typ});
        tokens.issuer.sign_raw(&header.to_string(), claims.to_string().as_bytes()).unwrap()
    };
    let access = sign("JWT", &json!({}));
    let refresh = sign("rt+jwt", &json!({}));
    let event = json!({"http://schemas.openid.net/event/backchannel-logout": {}});
    let logout = sign("logout+jwt", &json!({"events": event}));
    let no_logout = sign("logout+jwt", &json!({"events": {"canary-event": {}}}));
    let change = "https://schemas.openid.net/secevent/caep/event-type/credential-change";
    let set = |events: Value| {
        sign(
            "secevent+jwt",
            &json!({"iss": "https://signals.test", "aud": "doorward", "jti": "canary-jti-set", "events": events}),
        )
    };
    let subject = json!({"format": "opaque", "id": "canary-subject"});
    let events = [
        set(json!({change: {"subject": subject, "reason_admin": "canary-reason"}})),
        set(json!({"canary-event\r\n": {"canary": "canary"}})),
        set(json!({change: {"subject": {"format": "canary-format"}}})),
        set(json!({"https://schemas.openid.net/secevent/ssf/event-type/verification": {"state": "canary-state"}})),
        "canary-no-token".to_owned(),
    ];
    let assertion = sign(
        "JWT",
        &json!({"iss": "http://127.0.0.1:9/canary-path", "aud": "https://doorward.test/global-token-revocation", "exp": now() + 60, "nonce": null}),
    );
    let key = ADMIN_KEY.to_owned();
    let mut rows = Vec::new();
    for token in [&access, &refresh, &logout, &"canary-opaque".to_owned(), &format!("{access}=canary")] {
        for path in ["/oauth2/revoke", "/oauth2/introspect"] {
            rows.push((path, form, format!("token={token}&token_type_hint=canary-hint"), key.clone()));
            rows.push((path, form, format!("token={token}"), "canary-wrong-admin-key".to_owned()));
        }
    }
    for token in [&logout, &no_logout, &access, &"canary".to_owned()] {
        rows.push(("/oidc/backchannel-logout", form, format!("logout_token={token}&canary=canary"), key.clone()));
    }
    for event in events {
        for credential in [PUSH_TOKEN, "canary-wrong-push-token"] {
            rows.push(("/signals/events", "application/secevent+jwt", event.clone(), credential.to_owned()));
        }
    }
    for credential in [key, assertion, "canary.wrong.assertion".to_owned()] {
        for subject in [&subject, &json!({"format": "iss_sub", "iss": "canary-issuer", "sub": "canary-subject"})] {
            let body = json!({"sub_id": subject, "canary": "canary"}).to_string();
            rows.push(("/global-token-revocation", "application/json", body, credential.clone()));
        }
    }
    rows
}
