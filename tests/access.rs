//! Access to the HTTP API and the check socket: callers, credentials and forms of requests.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::api::{OPERATOR, READER, admin_keys, reason, send};
use crate::support::doorward::Doorward;
use crate::support::grpc::Checks;
use crate::support::tokens::Tokens;
use crate::support::{PATIENCE, TempDir};

/// From the API's own description: method, path, and whether an admin key alone is required.
async fn operations(doorward: &Doorward) -> Vec<(reqwest::Method, String, bool)> {
    let document: Value = serde_json::from_str(&doorward.get("/openapi.json").await.1).unwrap();
    let mut found = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let Ok(method) = method.to_uppercase().parse() else { continue };
            // Clients of OAuth endpoints may show their key as a password, too.
            let admin = operation["security"]
                .as_array()
                .is_some_and(|ways| !ways.is_empty() && ways.iter().all(|way| way.get("admin_key").is_some()));
            found.push((method, path.clone(), admin));
        }
    }
    assert!(found.iter().filter(|(_, _, admin)| *admin).count() >= 5, "{found:?}");
    found
}

/// Every endpoint that needs an admin key, by the description, refuses all other credentials.
#[tokio::test(flavor = "multi_thread")]
async fn only_an_admin_key_is_accepted() {
    let (tokens, stranger) = (Tokens::new(), Tokens::new());
    let doorward = Doorward::start(&tokens.config(&admin_keys())).await;
    let client = reqwest::Client::new();
    let rows = [
        ("nothing", String::new()),
        ("a user's token", format!("Bearer {}", tokens.of("alice"))),
        ("another issuer's token", format!("Bearer {}", stranger.of("operator"))),
        ("a wrong key", "Bearer operator-key-0123456780".to_owned()),
        ("a part of a key", format!("Bearer {}", &OPERATOR[..OPERATOR.len() - 1])),
        ("a key and more", format!("Bearer {OPERATOR}x")),
        ("two keys", format!("Bearer {READER},Bearer {OPERATOR}")),
        ("a key as a password", "Basic b3BlcmF0b3I6b3BlcmF0b3Ita2V5LTAxMjM0NTY3ODk=".to_owned()),
        ("the digest of a key", format!("Bearer {}", "0".repeat(64))),
        ("an empty key", "Bearer ".to_owned()),
        ("a key in upper case", format!("Bearer {}", OPERATOR.to_uppercase())),
        ("64 KB", format!("Bearer {}", "x".repeat(60_000))),
    ];
    let mut asked = 0;
    for (method, path, _) in operations(&doorward).await.into_iter().filter(|(_, _, admin)| *admin) {
        for (what, credentials) in &rows {
            for body in ["{}", "", "token=x"] {
                let mut request = client.request(method.clone(), format!("http://{}{path}", doorward.http));
                if !credentials.is_empty() {
                    request = request.header("authorization", credentials);
                }
                let form = if body.starts_with('t') { "application/x-www-form-urlencoded" } else { "application/json" };
                let reply = send(request.header("content-type", form).body(body)).await;
                assert_eq!(reply.status, 401, "{method} {path} with {what}: {reply:?}");
                assert!(reply.header("www-authenticate").starts_with("Bearer"), "{method} {path} with {what}");
                asked += 1;
            }
        }
        // A key is looked for in its one place.
        for place in ["?access_token=", "?key=", "?api_key="] {
            let url = format!("http://{}{path}{place}{OPERATOR}", doorward.http);
            let request = client.request(method.clone(), url).header("x-api-key", OPERATOR);
            let reply =
                send(request.header("cookie", format!("authorization=Bearer {OPERATOR}")).json(&json!({}))).await;
            assert_eq!(reply.status, 401, "{method} {path}{place}");
        }
    }
    eprintln!("access: {asked} requests to what needs an admin key, none let in");
}

/// The requests that another site's page can make a browser send: "simple" ones, with cookies only.
#[tokio::test(flavor = "multi_thread")]
async fn another_sites_forms_do_nothing() {
    let tokens = Tokens::new();
    let from = "token: {from: [{header: authorization, scheme: Bearer}, {cookie: session}]}\n";
    let doorward = Doorward::start(&tokens.config(&format!("{from}{}", admin_keys()))).await;
    let checks = Checks::connect(&doorward.check).await;
    let (client, token) = (reqwest::Client::new(), tokens.of("alice"));
    let revocation = json!({"kind": "user", "id": "alice"}).to_string();
    for (method, path, admin) in operations(&doorward).await {
        for media_type in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""] {
            let mut request = client.request(method.clone(), format!("http://{}{path}?all=true", doorward.http));
            request = request.header("cookie", format!("session={token}")).header("origin", "https://attacker.test");
            if !media_type.is_empty() {
                request = request.header("content-type", media_type);
            }
            let reply = send(request.body(revocation.clone())).await;
            assert!(!reply.headers.contains_key("access-control-allow-origin"), "{method} {path}");
            if admin {
                assert_eq!(reply.status, 401, "{method} {path} {media_type}: {reply:?}");
            }
            if path == "/logout" {
                assert_eq!(reply.status, 403, "{method} {path} {media_type}: {reply:?}");
            }
        }
        let preflight = client.request(reqwest::Method::OPTIONS, format!("http://{}{path}", doorward.http));
        let preflight =
            preflight.header("origin", "https://attacker.test").header("access-control-request-method", "POST");
        let reply = send(preflight.header("access-control-request-headers", "authorization")).await;
        // Any site may read the metadata of the resource, without credentials (RFC 9728).
        if path == "/.well-known/oauth-protected-resource" {
            let allowed = |name: &str| reply.headers.get(name).and_then(|value| value.to_str().ok());
            assert_eq!(allowed("access-control-allow-origin"), Some("*"));
            assert_eq!(allowed("access-control-allow-methods"), Some("GET"));
            assert_eq!(allowed("access-control-allow-headers"), Some("mcp-protocol-version"));
            assert_eq!(allowed("access-control-allow-credentials"), None);
            continue;
        }
        assert_eq!(reply.status, if path == "/logout" { 403 } else { 405 }, "{path}");
        assert!(reply.headers.keys().all(|name| !name.as_str().starts_with("access-control")), "{path}");
    }
    assert_eq!(reason(&checks, &token).await, "ok", "nobody was signed out");
    // With a key, a body must still have the type JSON: a form cannot.
    for media_type in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"] {
        let request = client.post(format!("http://{}/v1/revocations", doorward.http)).bearer_auth(OPERATOR);
        let reply = send(request.header("content-type", media_type).body(revocation.clone())).await;
        assert_eq!(reply.status, 415, "{media_type}");
    }
    assert_eq!(reason(&checks, &token).await, "ok");
}

#[tokio::test(flavor = "multi_thread")]
async fn users_revoke_nobody_but_themselves() {
    let (tokens, other) = (Tokens::new(), Tokens::new());
    let config = tokens.config("").replace(
        "issuers:\n",
        &format!(
            "issuers:\n  - {{name: other, issuer: \"https://other.test\", audiences: any, keys: {{jwks: {}}}}}\n",
            other.issuer.jwks()
        ),
    );
    let doorward = Doorward::start(&config).await;
    let checks = Checks::connect(&doorward.check).await;
    let (alice, again, bob) = (tokens.of("alice"), tokens.of("alice"), tokens.of("bob"));
    let mut claims = Tokens::claims("alice");
    claims["iss"] = json!("https://other.test");
    let namesake = other.issuer.mint(&claims).unwrap();
    let client = reqwest::Client::new();
    let logout = |query: &str| client.post(format!("http://{}/logout{query}", doorward.http));
    let named = json!({"kind": "user", "id": "bob", "token": bob}).to_string();
    let tries = [
        logout(&format!("?token={bob}")),
        logout(&format!("?access_token={bob}")),
        logout("").header("cookie", format!("authorization={bob}")).body(named.clone()),
        logout("").header("x-user-id", "bob"),
        logout("?all=bob").bearer_auth(&alice),
        logout("?all=true&all=true").bearer_auth(&alice),
        // Someone else's signature under claims of bob.
        logout("").bearer_auth(other.with(json!({"sub": "bob"}))),
        logout("").bearer_auth(format!("{}.", bob.rsplit_once('.').unwrap().0)),
    ];
    for (n, request) in tries.into_iter().enumerate() {
        let reply = send(request).await;
        assert!([400, 401].contains(&reply.status), "{n}: {reply:?}");
    }
    for token in [&alice, &again, &bob, &namesake] {
        assert_eq!(reason(&checks, token).await, "ok");
    }
    // Several presented tokens are all signed out: a second field does not prevent a sign-out.
    let shown = || [tokens.of("carol"), tokens.of("dave")];
    for joined in [false, true] {
        let [first, second] = shown();
        let request = if joined {
            logout("").header("authorization", format!("Bearer {first}, Bearer {second}"))
        } else {
            logout("").bearer_auth(&first).header("authorization", format!("Bearer {second}"))
        };
        assert_eq!(send(request).await.status, 204, "joined: {joined}");
        for token in [first, second] {
            assert_eq!(reason(&checks, &token).await, "signed_out");
        }
    }
    // Other parameters of the body beside the token are ignored.
    assert_eq!(send(logout("").bearer_auth(&alice).body(named.clone())).await.status, 204);
    assert_eq!(reason(&checks, &alice).await, "signed_out");
    for token in [&again, &bob, &namesake] {
        assert_eq!(reason(&checks, token).await, "ok");
    }
    assert_eq!(send(logout("?all=true").bearer_auth(&alice).body(named.clone())).await.status, 204, "a dead token may");
    assert_eq!(reason(&checks, &again).await, "ok", "and ends no more");
    assert_eq!(send(logout("?all=true").bearer_auth(&again).body(named)).await.status, 204);
    assert_eq!(reason(&checks, &again).await, "signed_out");
    for token in [&bob, &namesake] {
        assert_eq!(reason(&checks, token).await, "ok", "another user; the same name at another issuer");
    }
}

/// Sends bytes, and reads the status codes of the answers until the peer closes.
async fn exchange(address: SocketAddr, bytes: &[u8]) -> Vec<u16> {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let _ = stream.write_all(bytes).await;
        let mut answer = Vec::new();
        while let Ok(1..) = stream.read_buf(&mut answer).await {}
        let text = String::from_utf8_lossy(&answer).into_owned();
        text.split("HTTP/1.").skip(1).filter_map(|part| part.get(2..5)?.parse().ok()).collect()
    };
    tokio::time::timeout(PATIENCE, exchange).await.expect("it answers and closes")
}

/// Requests that proxies and servers have read in two ways: accepted with one reading, or refused.
#[tokio::test(flavor = "multi_thread")]
async fn requests_that_can_be_read_in_two_ways_are_refused() {
    let tokens = Tokens::new();
    let more = format!("limits: {{http_body_bytes: 1024}}\n{}", admin_keys());
    let doorward = Doorward::start(&tokens.config(&more)).await;
    let key = format!("authorization: Bearer {OPERATOR}\r\ncontent-type: application/json\r\n");
    let revoke = |head: &str, body: &str| {
        format!("POST /v1/revocations HTTP/1.1\r\nhost: a\r\nconnection: close\r\n{key}{head}\r\n{body}").into_bytes()
    };
    let json = r#"{"kind":"user","id":"carol"}"#;
    let chunked = format!("{:x}\r\n{json}\r\n0\r\n\r\n", json.len());
    let auth = |head: &str| {
        let request = "x-original-uri: /a\r\nx-original-method: GET\r\n";
        format!("GET /auth HTTP/1.1\r\nconnection: close\r\n{request}{head}\r\n").into_bytes()
    };
    let get = |line: &str, head: &str| format!("{line}\r\n{head}connection: close\r\n\r\n").into_bytes();
    for (what, bytes, expected) in [
        ("a plain body", revoke(&format!("content-length: {}\r\n", json.len()), json), &[201][..]),
        ("chunks", revoke("transfer-encoding: chunked\r\n", &chunked), &[201]),
        ("two lengths", revoke(&format!("content-length: {}\r\ncontent-length: 5\r\n", json.len()), json), &[400]),
        ("a list of lengths", revoke(&format!("content-length: {}, 5\r\n", json.len()), json), &[400]),
        ("a negative length", revoke("content-length: -1\r\n", json), &[400]),
        ("a length with a sign", revoke("content-length: +28\r\n", json), &[400]),
        ("an endless length", revoke("content-length: 99999999999999999999999\r\n", json), &[400]),
        ("a length beyond the bound", revoke("content-length: 1099511627776\r\n", json), &[413]),
        (
            "chunks beyond the bound",
            revoke("transfer-encoding: chunked\r\n", &format!("800\r\n{}\r\n0\r\n\r\n", " ".repeat(0x800))),
            &[413],
        ),
        ("a chunk size that overflows", revoke("transfer-encoding: chunked\r\n", "fffffffffffffffff\r\n"), &[400]),
        ("a chunk size that is none", revoke("transfer-encoding: chunked\r\n", "xyz\r\n"), &[400]),
        ("another transfer coding", revoke("transfer-encoding: gzip\r\n", json), &[400]),
        ("a coding before chunked", revoke("transfer-encoding: chunked, identity\r\n", &chunked), &[400]),
        ("no host", get("GET /livez HTTP/1.1", ""), &[200]),
        ("HTTP/1.0", get("GET /livez HTTP/1.0", ""), &[200]),
        ("HTTP/0.9", b"GET /livez\r\n\r\n".to_vec(), &[400]),
        ("HTTP/3.0", get("GET /livez HTTP/3.0", ""), &[400]),
        ("another protocol", b"SSH-2.0-x\r\n\r\n".to_vec(), &[400]),
        ("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n".to_vec(), &[400]),
        ("a folded field", get("GET /livez HTTP/1.1", "x: a\r\n b\r\n"), &[400]),
        ("a space before the colon", get("GET /livez HTTP/1.1", "host : a\r\n"), &[400]),
        ("NUL in a field", get("GET /livez HTTP/1.1", "x: a\0b\r\n"), &[400]),
        ("NUL in the target", get("GET /livez\0 HTTP/1.1", ""), &[400]),
        ("a space in the target", get("GET /livez x HTTP/1.1", ""), &[400]),
        ("a full URL", get("GET http://attacker.test/livez HTTP/1.1", "host: a\r\n"), &[200]),
        ("an odd host", get("GET /livez HTTP/1.1", "host: a@b:c/../d\r\n"), &[200, 400]),
        ("a method in lower case", get("get /livez HTTP/1.1", ""), &[405]),
        ("an unknown method", get("FROB /livez HTTP/1.1", ""), &[405]),
        ("TRACE", get("TRACE /livez HTTP/1.1", "x: a\r\n"), &[405]),
        ("CONNECT", get("CONNECT a:443 HTTP/1.1", "host: a:443\r\n"), &[404, 405, 400]),
        ("an upgrade", get("GET /livez HTTP/1.1", "upgrade: h2c\r\nhttp2-settings: AAMAAABk\r\n"), &[200]),
        ("a long target", get(&format!("GET /{} HTTP/1.1", "a".repeat(100_000)), ""), &[414, 431, 400]),
        ("many fields", get("GET /livez HTTP/1.1", &"x: y\r\n".repeat(5_000)), &[431]),
        ("a long field", get("GET /livez HTTP/1.1", &format!("x: {}\r\n", "y".repeat(200_000))), &[431]),
        ("auth: no host", auth(""), &[400]),
        ("auth: two hosts", auth("host: a\r\nhost: b\r\n"), &[400]),
        ("auth: a host of two", auth("host: a, b\r\n"), &[400]),
        ("auth: a right one", auth("host: a\r\n"), &[401]),
        ("auth: two tokens", auth("host: a\r\nauthorization: Bearer x\r\nauthorization: Bearer x\r\n"), &[400]),
    ] {
        let got = exchange(doorward.http, &bytes).await;
        assert!(got.len() == 1 && expected.contains(&got[0]), "{what}: {got:?}, not {expected:?}");
    }
    // Both a length and chunks: either the connection ends with the request, or it is refused. The following
    // bytes are never a separate request.
    let smuggled = "0\r\n\r\nGET /livez HTTP/1.1\r\nhost: a\r\n\r\n";
    let request = format!(
        "POST /v1/revocations HTTP/1.1\r\nhost: a\r\n{key}content-length: {}\r\ntransfer-encoding: chunked\r\n\r\n{smuggled}",
        smuggled.len()
    );
    let got = exchange(doorward.http, request.as_bytes()).await;
    assert!(got.len() == 1 && got[0] == 400, "{got:?}");
    assert_eq!(doorward.get("/livez").await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_check_socket_has_its_mode_from_the_beginning() {
    use std::os::unix::fs::PermissionsExt;
    let tokens = Tokens::new();
    for (mode, expected) in [("", 0o660), (", mode: \"0600\"", 0o600), (", mode: \"0666\"", 0o666)] {
        let listen = format!("listen: {{check: \"unix:DIR/check.sock\"{mode}, http: \"127.0.0.1:0\"}}\n");
        let config = tokens.config(&listen);
        let dir = TempDir::new();
        let socket = dir.path().join("check.sock");
        let starting = Doorward::launch_in(dir, &config);
        // An observer meanwhile sees no other mode.
        let watching = async {
            loop {
                if let Ok(metadata) = std::fs::metadata(&socket) {
                    assert_eq!(metadata.permissions().mode() & 0o777, expected);
                }
                tokio::task::yield_now().await;
            }
        };
        let doorward = tokio::select! {
            doorward = starting => doorward,
            () = watching => unreachable!(),
        };
        assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, expected);
        drop(doorward);
    }
}

/// A figure: the duration of a key's refusal, by its similarity to a valid one. By construction the duration does not
/// depend on the similarity: each digest is compared in full (`AdminKeys::find`).
#[tokio::test(flavor = "multi_thread")]
async fn wrong_keys_take_as_long_as_unknown_ones() {
    const ROUNDS: usize = 300;
    let doorward = Doorward::start(&Tokens::new().config(&admin_keys())).await;
    let client = reqwest::Client::new();
    let near = format!("{}x", &OPERATOR[..OPERATOR.len() - 1]);
    let keys = ["unknown-key-0123456789x", near.as_str(), OPERATOR];
    let mut took = [const { Vec::new() }; 3];
    for _ in 0..ROUNDS {
        for (key, took) in keys.iter().zip(&mut took) {
            // Needs `revoke` in a body of JSON, so that the right key gets no further either.
            let request =
                client.post(format!("http://{}/v1/revocations", doorward.http)).bearer_auth(key).build().unwrap();
            let asked = Instant::now();
            let response = client.execute(request).await.unwrap();
            took.push(asked.elapsed());
            assert!([401, 415].contains(&response.status().as_u16()));
        }
    }
    let median = |mut took: Vec<Duration>| {
        took.sort();
        took[took.len() / 2]
    };
    let [unknown, near, right] = took.map(median);
    eprintln!("access: median of {ROUNDS}: an unknown key {unknown:?}, one byte off {near:?}, a right one {right:?}");
}
