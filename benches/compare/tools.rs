//! Generates the inputs of `compare.sh`: a key set, tokens, and a store full of revocations.
//!
//!     compare-tools jwks KEY.pem
//!     compare-tools token KEY.pem [HEX-DIGITS-OF-PADDING]
//!     compare-tools revocations FILE COUNT
#![expect(clippy::expect_used, clippy::print_stdout, reason = "it prints what it made, or stops")]

use std::path::Path;
use std::time::Duration;

use doorward::authz::claims::IssuerName;
use doorward::authz::revocation::{Kind, Origin, Revocation, Target, TargetId, Watermark};
use doorward::authz::signing::PayloadSigner;
use doorward::sources::ledger::EmbeddedLedger;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

const HOUR: Duration = Duration::from_secs(3600);

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["jwks", key] => println!("{}", json!({ "keys": [public(key)] })),
        ["token", key] => println!("{}", token(key)),
        ["revocations", file, count] => revocations(Path::new(file), count.parse().expect("a number")).await,
        _ => eprintln!("usage: compare-tools jwks KEY | token KEY | revocations FILE COUNT"),
    }
}

fn public(key: &str) -> Value {
    let pem = std::fs::read_to_string(key).expect("a key file");
    PayloadSigner::from_pem(&pem, HOUR).expect("a private key").public().clone()
}

/// As large as access tokens of common providers are: 945 bytes.
fn token(key: &str) -> String {
    let kid = public(key)["kid"].as_str().map(str::to_owned);
    let now = doorward::clock::now().as_secs();
    let claims = json!({
        "iss": "https://auth.example.com", "aud": "shop", "sub": "3f2b8c1e-7a0d-4f6e-9b1c-5d2e8f4a6b7c",
        "email": "alice@example.com", "jti": "9e107d9d-372b-4826-a1d8-3542a419d6d2",
        "sid": "b6d81b36-0a4f-4a7e-8a56-8b8a3c1d2e3f", "azp": "shop-web", "scope": "openid profile email orders:read",
        "auth_time": now - 120, "iat": now - 60, "exp": now + 12 * 3600,
        "roles": ["customer", "reviewer"], "name": "Alice Example", "locale": "en-GB",
    });
    let header = Header { typ: Some("at+jwt".to_owned()), kid, ..Header::new(Algorithm::RS256) };
    let pem = std::fs::read(key).expect("a key file");
    let key = EncodingKey::from_rsa_pem(&pem).expect("an RSA key");
    jsonwebtoken::encode(&header, &claims, &key).expect("a token")
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
