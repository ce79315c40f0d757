//! Generates the inputs of `compare.sh`: a key set, tokens, a store full of revocations; and sends requests as
//! h2load cannot: with the token of another user in each, or evenly in time.
//!
//!     compare-tools jwks KEY.pem
//!     compare-tools token KEY.pem
//!     compare-tools tokens KEY.pem FILE COUNT
//!     compare-tools load PORT CONNECTIONS COUNT RATE TOKENS-FILE HEAD-FILE
//!     compare-tools revocations FILE COUNT
#![expect(clippy::expect_used, clippy::print_stdout, reason = "it prints what it made, or stops")]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use doorward::authz::claims::IssuerName;
use doorward::authz::revocation::{Kind, Origin, Revocation, Target, TargetId, Watermark};
use doorward::authz::signing::PayloadSigner;
use doorward::sources::ledger::EmbeddedLedger;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

const HOUR: Duration = Duration::from_secs(3600);
const SECOND: Duration = Duration::from_secs(1);

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["jwks", key] => println!("{}", json!({ "keys": [public(key)] })),
        ["token", key] => println!("{}", tokens(key).next().expect("a token")),
        ["tokens", key, file, count] => {
            let lines: Vec<_> = tokens(key).take(count.parse().expect("a number")).collect();
            std::fs::write(file, lines.join("\n")).expect("a file");
        }
        ["load", port, connections, count, rate, tokens, head] => {
            let [connections, count] = [connections, count].map(|number| number.parse().expect("a number"));
            let rate: u32 = rate.parse().expect("a number");
            let every = rate
                .checked_div(u32::try_from(connections).expect("a number"))
                .filter(|rate| *rate > 0)
                .map(|rate| SECOND / rate);
            load(port.parse().expect("a port"), connections, count, every, Path::new(tokens), Path::new(head)).await;
        }
        ["revocations", file, count] => revocations(Path::new(file), count.parse().expect("a number")).await,
        _ => eprintln!("usage: see benches/compare/tools.rs"),
    }
}

fn public(key: &str) -> Value {
    let pem = std::fs::read_to_string(key).expect("a key file");
    PayloadSigner::from_pem(&pem, HOUR).expect("a private key").public().clone()
}

/// One for each user. As large as access tokens of common providers are: 945 bytes.
fn tokens(key: &str) -> impl Iterator<Item = String> {
    let kid = public(key)["kid"].as_str().map(str::to_owned);
    let header = Header { typ: Some("at+jwt".to_owned()), kid, ..Header::new(Algorithm::RS256) };
    let pem = std::fs::read(key).expect("a key file");
    let key = EncodingKey::from_rsa_pem(&pem).expect("an RSA key");
    let now = doorward::clock::now().as_secs();
    (0x5d2e_8f4a_6b7c_u64..).map(move |user| {
        let claims = json!({
            "iss": "https://auth.example.com", "aud": "shop", "sub": format!("3f2b8c1e-7a0d-4f6e-9b1c-{user:012x}"),
            "email": "alice@example.com", "jti": format!("9e107d9d-372b-4826-a1d8-{user:012x}"),
            "sid": format!("b6d81b36-0a4f-4a7e-8a56-{user:012x}"), "azp": "shop-web",
            "scope": "openid profile email orders:read",
            "auth_time": now - 120, "iat": now - 60, "exp": now + 12 * 3600,
            "roles": ["customer", "reviewer"], "name": "Alice Example", "locale": "en-GB",
        });
        jsonwebtoken::encode(&header, &claims, &key).expect("a token")
    })
}

/// Sends `count` requests with the head of the file, each with the next of the tokens; `every`: the time between two of
/// one connection. Stops at an answer other than 200.
async fn load(port: u16, connections: usize, count: usize, every: Option<Duration>, tokens: &Path, head: &Path) {
    let tokens = std::fs::read_to_string(tokens).expect("a file of tokens");
    let head = std::fs::read_to_string(head).expect("a file");
    let request = |token| format!("{head}authorization: Bearer {token}\r\n\r\n").into_bytes();
    let requests: Arc<[Vec<u8>]> = tokens.lines().map(request).collect();
    let sent = Arc::new(AtomicUsize::new(0));
    let mut running = JoinSet::new();
    for _ in 0..connections {
        let (requests, sent) = (requests.clone(), sent.clone());
        running.spawn(async move {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).await.expect("a connection");
            stream.set_nodelay(true).expect("a socket");
            let mut answer = vec![0; 4096];
            let mut turns = every.map(tokio::time::interval);
            loop {
                if let Some(turns) = &mut turns {
                    turns.tick().await;
                }
                let number = sent.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    break;
                }
                stream.write_all(&requests[number % requests.len()]).await.expect("a request");
                let mut length = 0;
                while !answer[..length].ends_with(b"\r\n\r\nok") {
                    let read = stream.read(&mut answer[length..]).await.expect("an answer");
                    length += read;
                    let answer = String::from_utf8_lossy(&answer[..length]);
                    assert!(read > 0 && answer.starts_with("HTTP/1.1 200"), "refused: {answer}");
                }
            }
        });
    }
    running.join_all().await;
}

/// Signed-out tokens that nobody presents.
async fn revocations(file: &Path, count: u64) {
    let now = doorward::clock::now();
    let ledger = EmbeddedLedger::open(file, now).expect("a store");
    let issuer = IssuerName::parse("main").expect("a name");
    let revocation = |number: u64| {
        let (high, low) = (number.wrapping_mul(0x9e37_79b9_7f4a_7c15), number.wrapping_mul(0xc2b2_ae3d_27d4_eb4f));
        let hex = format!("{high:016x}{low:016x}");
        let id = format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]);
        Revocation {
            target: Target::new(issuer.clone(), Kind::Token, TargetId::new(&id)),
            watermark: Watermark::FOREVER,
            expires_at: now.plus(12 * HOUR),
            origin: Origin::SignedOut,
            note: None,
        }
    };
    let numbers: Vec<u64> = (0..count).collect();
    for batch in numbers.chunks(50_000) {
        let batch: Vec<_> = batch.iter().map(|number| revocation(*number)).collect();
        ledger.append(&batch).await.expect("appended");
    }
}
