//! `docs/providers.md`: each of its blocks, started and asked about tokens of that provider's shape.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::api::{admin_keys, revoke};
use crate::corpus::forge::{base64url, with};
use crate::differential::signers::{self, Signer};
use crate::support::TempDir;
use crate::support::doorward::Doorward;
use crate::support::grpc::{Checks, get};
use crate::support::jwks_server::JwksServer;
use crate::support::tokens::now;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// How a provider writes its keys and tokens; `shapes.json` has one under the name of each block's issuer.
#[derive(Deserialize)]
struct Shape {
    key: String,
    /// The members of its keys beside their numbers.
    jwk: Value,
    header: Value,
    /// Claims of an access token; times as in its documentation.
    claims: Map<String, Value>,
    refused: Vec<Refused>,
}

#[derive(Deserialize)]
struct Refused {
    what: String,
    /// To the claims of the access token; `null` takes one out.
    changes: Value,
    reason: String,
}

/// A block of the page, with its row of the table.
struct Block {
    title: String,
    yaml: String,
    revoked_by: Vec<String>,
}

/// The claims that name a subject, at their places in the shapes; each case of a test gets its own.
const IDS: [&str; 11] = [
    "/jti",
    "/sid",
    "/session_id",
    "/origin_jti",
    "/authGrantId",
    "/identity_nonce",
    "/sub",
    "/oid",
    "/uid",
    "/user_id",
    "/kubernetes.io/pod/uid",
];

static SIGNERS: LazyLock<Vec<Signer>> = LazyLock::new(signers::all);

fn signer(key: &str) -> &'static Signer {
    let algorithm = match key {
        "ec" => "ES256",
        "ec384" => "ES384",
        "secret" => "HS256",
        _ => "RS256",
    };
    SIGNERS.iter().find(|signer| signer.algorithm == algorithm).unwrap()
}

fn blocks() -> Vec<Block> {
    let page = std::fs::read_to_string(format!("{ROOT}/docs/providers.md")).unwrap();
    let rows: BTreeMap<_, _> = page
        .lines()
        .filter_map(|line| {
            let cells: Vec<_> = line.strip_prefix("| [")?.split(" | ").collect();
            let title = cells[0].split(']').next()?.to_owned();
            Some((title, cells[1].split(", ").map(str::to_owned).collect::<Vec<_>>()))
        })
        .collect();
    let sections: Vec<_> = page.split("\n## ").skip(1).collect();
    assert_eq!(rows.len(), sections.len(), "a row for each section");
    let block = |section: &&str| {
        let title = section.lines().next().unwrap().to_owned();
        let yaml = section.split("```yaml\n").nth(1).unwrap().split("```").next().unwrap().to_owned();
        let revoked_by = rows.get(&title).unwrap_or_else(|| panic!("{title} has no row")).clone();
        Block { title, yaml, revoked_by }
    };
    sections.iter().map(block).collect()
}

impl Shape {
    /// Claims of the case `number`: made a minute ago, with ids of their own.
    fn claims(&self, number: usize) -> Value {
        let mut claims = Value::Object(self.claims.clone());
        let shift = match self.claims.get("iat").and_then(Value::as_i64) {
            Some(issued_at) => now() - 60 - issued_at,
            None => now() + 240 - claims["exp"].as_i64().unwrap(),
        };
        for instant in ["iat", "exp", "nbf", "auth_time"] {
            if let Some(at) = claims.get(instant).and_then(Value::as_i64) {
                claims[instant] = json!(at + shift);
            }
        }
        for id in IDS {
            match claims.pointer_mut(id) {
                Some(Value::String(text)) if !text.is_empty() => *text = format!("{text}-{number}"),
                Some(id @ Value::Number(_)) => *id = json!(100 + number),
                _ => {}
            }
        }
        claims
    }

    fn sign(&self, claims: &Value) -> String {
        let signer = signer(&self.key);
        let header = with(json!({"alg": signer.algorithm, "kid": signer.kid}), &self.header);
        let input = format!("{}.{}", base64url(header.to_string()), base64url(claims.to_string()));
        format!("{input}.{}", base64url(signer.sign(signer.algorithm, input.as_bytes())))
    }
}

/// The block as a configuration with the test's keys.
fn configured(block: &Block, url: &str) -> String {
    let lines = block.yaml.lines().map(|line| match line.trim_start().strip_prefix("keys:") {
        Some(keys) if keys.contains("secret_file") => "  keys: {secret_file: signing-key}".to_owned(),
        Some(_) => format!("  keys: {{jwks_url: \"{url}\"}}"),
        None => line.to_owned(),
    });
    let lines: Vec<_> = lines.collect();
    assert!(lines.iter().any(|line| line.contains(url)) || block.yaml.contains("secret_file"), "{}", block.title);
    format!("revocation: {{store: embedded}}\nissuers:\n{}\n{}", lines.join("\n"), admin_keys())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_provider_of_the_page_works_as_described() {
    let shapes = std::fs::read_to_string(format!("{ROOT}/tests/providers/shapes.json")).unwrap();
    let mut shapes: BTreeMap<String, Shape> = serde_json::from_str(&shapes).unwrap();
    let mut wrong = Vec::new();
    for block in blocks() {
        let name = block.yaml.lines().find_map(|line| line.strip_prefix("- name: ")).unwrap();
        let shape = shapes.remove(name).unwrap_or_else(|| panic!("no shape of {name}"));
        wrong.extend(tried(&block, name, &shape).await.into_iter().map(|fault| format!("{}: {fault}", block.title)));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(shapes.is_empty(), "shapes without a block: {:?}", shapes.keys());
}

/// The differences from the page.
async fn tried(block: &Block, name: &str, shape: &Shape) -> Vec<String> {
    let mut wrong = Vec::new();
    let signer = signer(&shape.key);
    let published = with(signer.jwk(), &json!({"use": null, "alg": null}));
    let server = JwksServer::start(&json!({"keys": [with(published, &shape.jwk)]})).await;
    let dir = TempDir::new();
    std::fs::write(dir.path().join("signing-key"), (0..64).collect::<Vec<u8>>()).unwrap();
    let doorward = Doorward::launch_in(dir, &configured(block, &server.url())).await;
    doorward.ready().await;
    let checks = Checks::connect(&doorward.check).await;
    let reason = async |claims: &Value| checks.check(get("/").token(&shape.sign(claims))).await.reason().to_owned();

    for (number, Refused { what, changes, reason: expected }) in shape.refused.iter().enumerate() {
        let found = reason(&with(shape.claims(number), changes)).await;
        if found != *expected {
            wrong.push(format!("{what}: {found}, not {expected}"));
        }
    }
    let opaque = checks.check(get("/").token("1//0gVvOpaqueRefreshToken")).await.reason().to_owned();
    assert_eq!(opaque, "malformed_token");

    // The client is the same in all cases, so it comes last.
    let mut revoked_by = Vec::new();
    for (number, kind) in ["token", "session", "user", "client"].into_iter().enumerate() {
        let claims = shape.claims(10 + number);
        let before = reason(&claims).await;
        if before != "ok" {
            wrong.push(format!("an access token: {before}"));
            continue;
        }
        let body = json!({"kind": kind, "issuer": name, "token": shape.sign(&claims)});
        let reply = revoke(&doorward, &body).await;
        if reply.status == 201 {
            // Signed again where the signature varies: the revocation is not of the text.
            let after = reason(&claims).await;
            if after != "revoked" {
                wrong.push(format!("revoked by {kind}: {after}"));
            }
            revoked_by.push(kind.to_owned());
        }
    }
    if revoked_by != block.revoked_by {
        wrong.push(format!("is revoked by {revoked_by:?}, the page says {:?}", block.revoked_by));
    }
    wrong
}
