//! Doorward, joserfc (Python) and jose (JavaScript) on the same tokens: valid ones, changed in steps that follow from
//! a seed.
//!
//! Doorward may be stricter, by a rule it states (`explain`); it never accepts what both others refuse.
//! `DIFFERENTIAL_TOKENS` asks for more tokens, `DIFFERENTIAL_SEED` for others; a failure names the seed of
//! its token: with that and one token, it is asked alone.

mod explain;
mod mutate;
pub mod signers;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::TempDir;
use crate::support::doorward::Doorward;
use crate::support::grpc::{Checks, Verdict, get};
use crate::support::tokens::now;
use mutate::Made;
use signers::Signer;

const ISSUER: &str = "https://issuer.test";
const SECRET_ISSUER: &str = "https://secret.test";
const AUDIENCE: &str = "demo";
const ASYMMETRIC: [&str; 9] = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"];
const SYMMETRIC: [&str; 3] = ["HS256", "HS384", "HS512"];
/// In seconds. Wide, so that the time which the test takes changes no verdict.
const LEEWAY: f64 = 600.0;
const LIFETIME: f64 = 86_400.0;
const MAX_BYTES: usize = 16_384;
/// How many tokens are judged at once: few enough to be done long before the time changes a verdict.
const ROUND: usize = 5_000;

const TOOLS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/.tools");
const SCRIPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/differential");

#[tokio::test(flavor = "multi_thread")]
async fn no_token_is_allowed_that_both_others_refuse() {
    let Some(others) = others() else { return };
    let number = |name: &str, default: u64| {
        std::env::var(name)
            .map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is not a number: {text}")))
    };
    let (first, count) = (number("DIFFERENTIAL_SEED", 1), number("DIFFERENTIAL_TOKENS", 2_000));
    let signers = signers::all();
    let doorward = doorward(&signers).await;
    let checks = Checks::connect(&doorward.check).await;
    let mut tally = Tally::default();
    for round in (first..first + count).step_by(ROUND) {
        let now = now();
        let seeds = round..(round + ROUND as u64).min(first + count);
        let tokens: Vec<Made> = seeds.map(|seed| mutate::token(seed, &signers, now)).collect();
        let dir = TempDir::new();
        let lines: String = tokens.iter().map(|made| STANDARD.encode(trimmed(&made.token)) + "\n").collect();
        std::fs::write(dir.path().join("tokens"), lines).unwrap();
        std::fs::write(dir.path().join("policy.json"), policy(&signers, now).to_string()).unwrap();
        let running = others.each_ref().map(|command| start(command, dir.path()));
        let ours = ask(&checks, &tokens).await;
        let [joserfc, jose] = running.map(|child| verdicts(child, tokens.len()));
        for (at, made) in tokens.iter().enumerate() {
            tally.add(made, &ours[at], [&joserfc[at], &jose[at]], now);
        }
    }
    eprintln!("differential: seeds {first} to {}\n{tally}", first + count - 1);
    assert!(tally.faults.is_empty(), "{} faults:\n{}", tally.faults.len(), tally.shown());
    assert!(count < 1000 || tally.all_allow as u64 > count / 8, "too few right tokens to tell anything");
}

/// RFC 6750 lets any number of spaces stand between the scheme and the token.
fn trimmed(token: &[u8]) -> &[u8] {
    &token[token.iter().position(|byte| *byte != b' ').unwrap_or(token.len())..]
}

/// The command lines of the two verifiers; prints a message if the test is skipped.
fn others() -> Option<[Vec<String>; 2]> {
    let (python, jose) = (format!("{TOOLS}/python/bin/python"), format!("{TOOLS}/jose"));
    let runs = |command: &mut Command| {
        command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
    };
    let has_jose = Path::new(&jose).join("node_modules/jose").is_dir() && runs(Command::new("node").arg("--version"));
    if !has_jose || !runs(Command::new(&python).args(["-c", "import joserfc"])) {
        eprintln!("SKIPPED: joserfc or jose is not there; tests/run.sh installs both into .tools");
        return None;
    }
    let [ignore, with_joserfc, with_jose] = ["-Wignore".to_owned(), script("verify.py"), script("verify.mjs")];
    Some([vec![python, ignore, with_joserfc], vec!["node".to_owned(), with_jose, jose]]) // joserfc warns of EdDSA.
}

fn script(name: &str) -> String {
    format!("{SCRIPTS}/{name}")
}

/// The configuration of all three.
fn policy(signers: &[Signer], now: i64) -> Value {
    let issuer = |issuer: &str, symmetric: bool, algorithms: &[&str]| {
        let keys = signers.iter().filter(|signer| signer.is_symmetric() == symmetric).map(Signer::jwk);
        // One secret serves all three; as a JWK it would be bound to one.
        let keys: Vec<Value> = if symmetric {
            keys.take(1).map(|key| json!({"kty": "oct", "k": key["k"]})).collect()
        } else {
            keys.collect()
        };
        let both_names = (!symmetric).then_some("Ed25519"); // RFC 9864.
        let algorithms: Vec<_> = algorithms.iter().copied().chain(both_names).collect();
        json!({"issuer": issuer, "audience": AUDIENCE, "symmetric": symmetric, "algorithms": algorithms, "keys": keys})
    };
    json!({
        "now": now, "leeway": LEEWAY, "max_bytes": MAX_BYTES, "types": ["jwt", "at+jwt"],
        "issuers": [issuer(ISSUER, false, &ASYMMETRIC), issuer(SECRET_ISSUER, true, &SYMMETRIC)],
    })
}

fn start(command: &[String], dir: &Path) -> (std::process::Child, PathBuf) {
    let answers = dir.join(if command[0] == "node" { "jose" } else { "joserfc" });
    let child = Command::new(&command[0])
        .args(&command[1..])
        .arg(dir.join("policy.json"))
        .stdin(File::open(dir.join("tokens")).unwrap())
        .stdout(File::create(&answers).unwrap())
        .spawn()
        .unwrap();
    (child, answers)
}

fn verdicts((mut child, answers): (std::process::Child, PathBuf), count: usize) -> Vec<String> {
    assert!(child.wait().unwrap().success(), "a verifier failed");
    let verdicts: Vec<_> = std::fs::read_to_string(answers).unwrap().lines().map(str::to_owned).collect();
    assert_eq!(verdicts.len(), count, "one verdict a token");
    verdicts
}

async fn doorward(signers: &[Signer]) -> Doorward {
    let published: Vec<_> = signers.iter().filter(|signer| !signer.is_symmetric()).map(Signer::jwk).collect();
    let config = format!(
        r#"
issuers:
  - {{name: main, issuer: "{ISSUER}", audiences: [{AUDIENCE}], keys: {{jwks: {jwks}}}, algorithms: [{asymmetric}], leeway: 10m}}
  - {{name: secret, issuer: "{SECRET_ISSUER}", audiences: [{AUDIENCE}], keys: {{secret_file: secret}}, algorithms: [{symmetric}], leeway: 10m}}
revocation: {{store: embedded}}
telemetry: {{log: {{decisions: none}}}}
"#,
        jwks = json!({ "keys": published }),
        asymmetric = ASYMMETRIC.join(", "),
        symmetric = SYMMETRIC.join(", "),
    );
    let dir = TempDir::new();
    let secret: Vec<u8> = (0..64).collect();
    std::fs::write(dir.path().join("secret"), secret).unwrap();
    let doorward = Doorward::launch_in(dir, &config).await;
    doorward.ready().await;
    doorward
}

/// Doorward's reasons; `ok` where it allows.
async fn ask(checks: &Checks, tokens: &[Made]) -> Vec<String> {
    let reason = |verdict: &Verdict| {
        assert!(verdict.status < 500, "{}", verdict.reason());
        if verdict.allowed() { "ok".to_owned() } else { verdict.reason().to_owned() }
    };
    let mut reasons = Vec::with_capacity(tokens.len());
    for some in tokens.chunks(32) {
        let asked = || {
            some.iter().map(|made| {
                let field = [b"Bearer ", made.token.as_slice()].concat();
                checks.check(get("/").header("authorization", field).raw())
            })
        };
        let first = join_all(asked()).await;
        // A token that was verified before is remembered, and must not fare otherwise.
        for (at, again) in join_all(asked()).await.iter().enumerate() {
            assert_eq!(reason(again), reason(&first[at]), "seed {}, asked again", some[at].seed);
        }
        reasons.extend(first.iter().map(reason));
    }
    reasons
}

/// The agreement between verifiers.
#[derive(Default)]
struct Tally {
    all_allow: usize,
    all_refuse: usize,
    /// Tokens that only Doorward refuses, by the rule that explains it: of both others, or of one.
    stricter: BTreeMap<&'static str, [usize; 2]>,
    /// By the explaining rule, the tokens that Doorward and one other allow.
    one_refuses: BTreeMap<&'static str, usize>,
    faults: Vec<String>,
}

impl Tally {
    fn add(&mut self, made: &Made, ours: &str, others: [&String; 2], now: i64) {
        let allowing = others.iter().filter(|verdict| **verdict == "allow").count();
        let fault = match (ours == "ok", allowing) {
            (true, 0) => Some("allowed, and both others refuse"),
            (true, 1) => match explain::explain(&explain::IGNORED, trimmed(&made.token), ours, now) {
                Some(row) => {
                    *self.one_refuses.entry(row.rule).or_default() += 1;
                    None
                }
                None => Some("allowed by no rule of the table, and refused by one other"),
            },
            (true, _) => {
                self.all_allow += 1;
                None
            }
            (false, 0) => {
                self.all_refuse += 1;
                made.untouched.then_some("a right token is refused")
            }
            (false, _) => match explain::explain(&explain::TABLE, trimmed(&made.token), ours, now) {
                Some(row) if !made.untouched => {
                    self.stricter.entry(row.rule).or_default()[2 - allowing] += 1;
                    None
                }
                _ => Some("refused by no rule of the table, and accepted by others"),
            },
        };
        if let Some(fault) = fault {
            let [joserfc, jose] = others;
            self.faults.push(format!(
                "{fault}\nseed: {}\n{}\ntoken: {}\nDoorward: {ours}\njoserfc: {joserfc}\njose: {jose}\n",
                made.seed,
                made.parts,
                String::from_utf8_lossy(&made.token)
            ));
        }
    }

    /// The first faults; a thousand of one kind add no information.
    fn shown(&self) -> String {
        self.faults.iter().take(10).map(|fault| format!("{fault:.4000}")).collect::<Vec<_>>().join("\n")
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "  {} allowed by all, {} refused by all", self.all_allow, self.all_refuse)?;
        for row in &explain::TABLE {
            let [both, one] = self.stricter.get(row.rule).copied().unwrap_or_default();
            writeln!(f, "  {:>6} refused by Doorward alone, {one:>6} by it and one other: {}", both, row.rule)?;
        }
        for row in &explain::IGNORED {
            let count = self.one_refuses.get(row.rule).copied().unwrap_or_default();
            writeln!(f, "  {count:>6} allowed by Doorward and one other: {}", row.rule)?;
        }
        write!(f, "  {} faults", self.faults.len())
    }
}
