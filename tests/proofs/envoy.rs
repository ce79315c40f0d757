//! Proofs good and bad, through real Envoy.

use serde_json::{Value, json};

use super::client::{Client, hash};
use crate::support::doorward::Doorward;
use crate::support::envoy::{self, Envoy};
use crate::support::tokens::{Tokens, now};
use crate::support::upstream::Upstream;

/// A valid proof with one change, and whether it is accepted nevertheless.
struct Case {
    name: &'static str,
    header: Value,
    claims: Value,
    accepted: bool,
}

fn good(name: &'static str, claims: Value) -> Case {
    Case { name, header: json!({}), claims, accepted: true }
}

fn bad(name: &'static str, claims: Value) -> Case {
    Case { name, header: json!({}), claims, accepted: false }
}

fn bad_header(name: &'static str, header: Value) -> Case {
    Case { name, header, claims: json!({}), accepted: false }
}

fn cases(client: &Client, authority: &str) -> Vec<Case> {
    let uri = |path: &str| format!("http://{authority}{path}");
    let with = |name: &str, value: Value| {
        let mut jwk = client.jwk.clone();
        jwk[name] = value;
        json!({"jwk": jwk})
    };
    let long = "j".repeat(2000);
    vec![
        good("as it should be", json!({})),
        good("the query is not part of it", json!({"htu": uri("/orders?z=9#f")})),
        good("another spelling of the scheme", json!({"htu": format!("HTTP://{authority}/orders")})),
        good("another spelling of the path", json!({"htu": uri("/x/../%6frders")})),
        good("half a minute old", json!({"iat": now() - 30})),
        good("half a minute ahead", json!({"iat": now() + 30})),
        good("members that nobody knows", json!({"aud": "x", "exp": 1, "nonce": "n"})),
        good("a long id", json!({"jti": long})),
        good("an id that would be a command", json!({"jti": "\r\nFLUSHALL\r\n{}*"})),
        bad("no jti", json!({"jti": null})),
        bad("an empty jti", json!({"jti": ""})),
        bad("a jti that is a number", json!({"jti": 1})),
        bad("no htm", json!({"htm": null})),
        bad("another method", json!({"htm": "POST"})),
        bad("another spelling of the method", json!({"htm": "get"})),
        bad("no htu", json!({"htu": null})),
        bad("another path", json!({"htu": uri("/order")})),
        bad("a path below", json!({"htu": uri("/orders/")})),
        bad("another spelling of a segment", json!({"htu": uri("/Orders")})),
        bad("another scheme", json!({"htu": format!("https://{authority}/orders")})),
        bad("another host", json!({"htu": "http://shop.example.com/orders"})),
        bad("another port", json!({"htu": "http://127.0.0.1:1/orders"})),
        bad("the host as a user", json!({"htu": format!("http://{authority}@evil.test/orders")})),
        bad("a path alone", json!({"htu": "/orders"})),
        bad("no iat", json!({"iat": null})),
        bad("too old", json!({"iat": now() - 120})),
        bad("too far ahead", json!({"iat": now() + 120})),
        bad("an iat that is text", json!({"iat": now().to_string()})),
        bad("no ath", json!({"ath": null})),
        bad("of another token", json!({"ath": hash("another")})),
        bad_header("no typ", json!({"typ": null})),
        bad_header("another typ", json!({"typ": "JWT"})),
        bad_header("no signature", json!({"alg": "none"})),
        bad_header("a shared secret", json!({"alg": "HS256", "jwk": {"kty": "oct", "k": "AAAA"}})),
        bad_header("another algorithm", json!({"alg": "ES384"})),
        bad_header("no key", json!({"jwk": null})),
        bad_header("a private key", with("d", json!("AAAA"))),
        bad_header("another's key", json!({"jwk": Client::new().jwk})),
        bad_header("a key for encryption", with("use", json!("enc"))),
        bad_header("an extension that must be understood", json!({"crit": ["x"], "x": 1})),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn forty_proofs_are_distinguished_behind_envoy() {
    for binary in envoy::binaries() {
        let (tokens, client, upstream) = (Tokens::new(), Client::new(), Upstream::start().await);
        let doorward = Doorward::start(&tokens.config("")).await;
        let envoy = Envoy::start(&binary, "edge-tcp.yaml", &doorward.check, upstream.address).await;
        let (authority, bound) = (envoy.address.to_string(), super::bound(&tokens, &client));
        let http = reqwest::Client::new();
        let ask = |proofs: &[String]| {
            let request = http.get(envoy.url("/orders?x=1")).header("authorization", format!("DPoP {bound}"));
            proofs.iter().fold(request, |request, proof| request.header("dpop", proof)).send()
        };
        let right = json!({"htm": "GET", "htu": envoy.url("/orders"), "ath": hash(&bound)});
        let cases = cases(&client, &authority);
        assert_eq!(cases.len(), 40);
        for Case { name, header, mut claims, accepted } in cases {
            for (member, value) in right.as_object().unwrap() {
                claims.as_object_mut().unwrap().entry(member).or_insert_with(|| value.clone());
            }
            let before = upstream.seen();
            let response = ask(&[client.proof_with(&header, &claims)]).await.unwrap();
            let status = response.status().as_u16();
            if accepted {
                let seen: Value = response.json().await.unwrap();
                assert_eq!((status, &seen["headers"]["x-user-id"]), (200, &json!("alice")), "{name}");
                assert_eq!(seen["headers"].get("dpop"), None, "{name}: the proof is withheld");
                assert_eq!(seen["headers"]["authorization"], format!("DPoP {bound}"));
                continue;
            }
            let challenge = response.headers()["www-authenticate"].to_str().unwrap().to_owned();
            let body: Value = response.json().await.unwrap();
            assert_eq!((status, &body["reason"]), (401, &json!("proof_invalid")), "{name}: {body}");
            assert!(
                challenge.starts_with("DPoP ") && challenge.contains("error=\"invalid_dpop_proof\""),
                "{challenge}"
            );
            assert_eq!(upstream.seen(), before, "{name}");
        }
        // Faults of the message itself, not of its claims.
        let proof = || client.proof_with(&json!({}), &right);
        let once = proof();
        assert_eq!(ask(std::slice::from_ref(&once)).await.unwrap().status(), 200);
        for (name, proofs) in [
            ("used before", vec![once]),
            ("two of them", vec![proof(), proof()]),
            ("two in one field", vec![format!("{}, {}", proof(), proof())]),
            ("cut", vec![proof()[..100].to_owned()]),
            ("none", vec![]),
        ] {
            assert_eq!(ask(&proofs).await.unwrap().status(), 401, "{name}");
        }
    }
}
