use serde_json::Value;

use super::rewrite::cookies_without;
use super::*;
use crate::request_uri::ProxyTrust;
use crate::resource::ResourceIdentifier;
use crate::rule::Requirements;

#[test]
fn every_refusal_has_its_status_and_challenge() {
    let responder = Responder::new(
        Vec::new(),
        None,
        ErrorSettings { reasons: true, realm: "doorward".to_owned() },
        &TokenSettings { from: Vec::new(), max_bytes: 1 },
        true,
    );
    let require = Requirements {
        scopes: vec!["a".to_owned(), "b".to_owned()],
        acr: vec!["mfa".to_owned()],
        max_age: Some(std::time::Duration::from_secs(900)),
        ..Requirements::default()
    };
    for denial in Denial::ALL {
        let refusal = responder.refuse(denial, &require, &Evidence::default(), &RequestView::NOTHING);
        let header = |name| refusal.headers.iter().find(|(n, _)| *n == name).map(|(_, value)| value.as_str());
        let body: Value = serde_json::from_str(&refusal.body).unwrap();
        assert_eq!(body["reason"], denial.label());
        assert_eq!(header("cache-control"), Some("no-store"));
        assert_eq!(
            header("www-authenticate").is_some(),
            refusal.status == 401 || denial == Denial::InsufficientScope,
            "{denial:?}"
        );
        assert_eq!(header("retry-after").is_some(), refusal.status == 503, "{denial:?}");
    }
    let challenge = |denial| {
        responder
            .refuse(denial, &require, &Evidence::default(), &RequestView::NOTHING)
            .headers
            .into_iter()
            .find(|(n, _)| *n == "www-authenticate")
            .unwrap()
            .1
    };
    assert_eq!(challenge(Denial::MissingToken), "Bearer realm=\"doorward\"");
    assert_eq!(challenge(Denial::ApiKeyMissing), "ApiKey realm=\"doorward\"");
    assert!(challenge(Denial::Expired).starts_with("Bearer realm=\"doorward\", error=\"invalid_token\""));
    assert!(challenge(Denial::InsufficientScope).ends_with("scope=\"a b\""));
    assert!(challenge(Denial::InsufficientAuthentication).ends_with("acr_values=\"mfa\", max_age=\"900\""));
    assert!(challenge(Denial::ProofMissing).starts_with("Bearer realm=\"doorward\", error=\"invalid_token\""));
}

#[test]
fn challenges_lead_to_the_metadata_of_the_resource() {
    let errors = ErrorSettings { reasons: false, realm: "r".to_owned() };
    let tokens = TokenSettings { from: Vec::new(), max_bytes: 1 };
    let identifier = ResourceIdentifier::fixed("https://api.test/mcp").unwrap();
    let resource = ProtectedResource::new(identifier, ProxyTrust::default(), serde_json::Map::new());
    let responder = Responder::new(Vec::new(), None, errors, &tokens, true).describing(resource);
    let require = Requirements { scopes: vec!["a".to_owned(), "b".to_owned()], ..Requirements::default() };
    let foreign = RequestView { host: "evil.test", target: "/x", scheme: "https", ..RequestView::NOTHING };
    let challenge = |responder: &Responder, denial| {
        let refusal = responder.refuse(denial, &require, &Evidence::default(), &foreign);
        refusal.headers.into_iter().find(|(name, _)| *name == "www-authenticate").unwrap().1
    };
    let metadata = "resource_metadata=\"https://api.test/.well-known/oauth-protected-resource/mcp\"";
    for (denial, expected) in [
        (Denial::MissingToken, format!("Bearer realm=\"r\", scope=\"a b\", {metadata}")),
        (Denial::Revoked, format!("Bearer realm=\"r\", error=\"invalid_token\", scope=\"a b\", {metadata}")),
        (
            Denial::InsufficientScope,
            format!("Bearer realm=\"r\", error=\"insufficient_scope\", scope=\"a b\", {metadata}"),
        ),
        (Denial::ApiKeyMissing, "ApiKey realm=\"r\"".to_owned()),
    ] {
        assert_eq!(challenge(&responder, denial), expected);
    }
    // Each challenge of the field has the parameter: a client reads only the challenge that it supports.
    let both = challenge(&responder.with_dpop_challenge(), Denial::MissingToken);
    assert_eq!(both.matches(metadata).count(), 2, "{both}");
}

#[test]
fn a_query_is_rewritten_as_envoy_does() {
    let names = ["token".to_owned()];
    for (target, expected) in [
        ("/a?token=x", "/a"),
        ("/a?b=1&token=x", "/a?b=1"),
        ("/a?c&b=2&token&b=1", "/a?b=2&b=1&c="),
        ("/a?token=x&&b", "/a?=&b="),
        ("/a?token=x&", "/a"),
        ("/a?token=x&b=c=d?", "/a?b=c=d?"),
        ("/a?", "/a"),
        ("/a", "/a"),
    ] {
        assert_eq!(without_query(target, &names), expected, "{target}");
    }
}

#[test]
fn look_alikes_are_all_spellings_once() {
    let spellings = look_alikes("x-user-id");
    assert_eq!(spellings.len(), 9);
    for name in ["x-user-id", "x_user_id", "x.user.id", "x_user-id", "x.user_id"] {
        assert!(spellings.contains(&name.to_owned()), "{name}");
    }
    assert_eq!(look_alikes("identity"), ["identity"]);
}

#[test]
fn cookies_are_taken_out_and_the_others_stay() {
    let check = |fields: &[&[u8]], names: &[&str], expected: Option<&str>| {
        let headers: Vec<_> = fields.iter().map(|field| ("cookie", *field)).collect();
        let request = RequestView { headers: &headers, ..RequestView::NOTHING };
        let sources: Vec<_> = names.iter().map(|name| TokenSource::ChunkedCookie((*name).to_owned())).collect();
        let sources: Vec<_> = sources.iter().collect();
        assert_eq!(cookies_without(&request, &sources).as_deref(), expected, "{fields:?}");
    };
    check(&[b"a=1; token=x; b=2"], &["token"], Some("a=1; b=2"));
    check(&[b"a=1; token_0=x; token.1=y; token_x=2; token_=3"], &["token"], Some("a=1; token_x=2; token_=3"));
    check(&[b"a=1; token=x; b=2; old =x"], &["token", "old"], Some("a=1; b=2"));
    check(&[b"a=1; token=x", b"old=x;b=2"], &["token", "old"], Some("a=1; b=2"));
    check(&[b"token=x"], &["token"], Some(""));
    check(&[b"a=1; mytoken=x"], &["token"], None);
    check(&[b"token=x; a=\xe9; b=2"], &["token"], Some(""));
    check(&[b"a=\xe9"], &["token"], None);
}
