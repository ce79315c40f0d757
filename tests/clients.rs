//! The clients of `clients/`, each on a real Redis that a real Doorward follows.

use std::process::{Command, Stdio};

use serde_json::json;

use crate::ledger::support::RedisServer;
use crate::support::doorward::Doorward;
use crate::support::eventually;
use crate::support::grpc::{Checks, get};
use crate::support::tokens::{Tokens, now};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// `drive` begins a command that revokes by a client: PORT ISSUER KIND ID EXPIRES.
async fn revokes(drive: impl Fn() -> Command) {
    let (redis, tokens) = (RedisServer::start(&[]).await, Tokens::new());
    let store = format!("revocation: {{store: redis, redis: {{url: \"redis://127.0.0.1:{}/0\"}}}}\n", redis.port);
    let doorward = Doorward::start(&tokens.config(&store)).await;
    let checks = Checks::connect(&doorward.check).await;
    let revoke = |kind: &str, id: &str, expires: i64| {
        let output = drive().args([&redis.port.to_string(), "dev", kind, id, &expires.to_string()]).output().unwrap();
        let position = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(position.contains('-'), "an id of the stream: {position}");
        position
    };
    let long = "s".repeat(129);
    let began = now();
    for (kind, claim, id) in [
        ("token", "jti", "by-hand"),
        ("token", "jti", "läng & \"odd\""),
        ("session", "sid", &*long),
        ("session", "sid", "a:b"),
        ("user", "sub", "auth0|ann@example.com"),
        ("user", "sub", "ann of a:b"),
    ] {
        let (hit, other) = (tokens.with(json!({claim: id})), tokens.with(json!({claim: "another"})));
        let before = checks.check(get("/").token(&hit)).await;
        assert!(before.allowed(), "{kind} {id}: {}", before.reason());
        revoke(kind, id, now() + 600);
        eventually(&format!("{kind} {id} is refused"), || async {
            checks.check(get("/").token(&hit)).await.reason() == "revoked"
        })
        .await;
        assert!(checks.check(get("/").token(&other)).await.allowed(), "not {kind} {id}");
    }
    // A user who signs in again is accepted; an expired revocation leaves no key.
    let again = tokens.with(json!({"sub": "ann of a:b", "iat": now() + 2}));
    assert!(checks.check(get("/").token(&again)).await.allowed());
    revoke("token", "expired", now() - 3600);
    assert_eq!(redis.cli(&["EXISTS", "doorward:{r}:dev:token:expired"]), "0");
    // The bound of the life of a key: the token's, the leeway, a second for the fraction.
    let expires: i64 = redis.cli(&["EXPIRETIME", "doorward:{r}:dev:token:by-hand"]).parse().unwrap();
    assert!((began + 600..=now() + 631).contains(&expires), "{expires}");
    let log = doorward.log.lock().unwrap().join("\n");
    assert!(!log.contains("not understood"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn python() {
    let python = format!("{ROOT}/.tools/python/bin/python");
    let import = Command::new(&python).args(["-c", "import redis"]).output();
    if !import.is_ok_and(|output| output.status.success()) {
        eprintln!("SKIPPED: Python's redis client is not there; tests/run.sh installs it into .tools/python");
        return;
    }
    revokes(|| {
        let mut command = Command::new(&python);
        command.arg(format!("{ROOT}/tests/clients/drive.py"));
        command
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn node() {
    let package = format!("{ROOT}/.tools/node-redis");
    if !std::path::Path::new(&package).join("node_modules/redis").is_dir() {
        eprintln!("SKIPPED: node's redis client is not there; tests/run.sh installs it into .tools/node-redis");
        return;
    }
    revokes(|| {
        let mut command = Command::new("node");
        command.env("NODE_REDIS", &package).arg(format!("{ROOT}/tests/clients/drive.mjs"));
        command
    })
    .await;
}

/// The folder of the Java client with its classes and libraries; `None` if they are not available.
fn built_java() -> Option<String> {
    let folder = format!("{ROOT}/clients/java");
    let built = Command::new("mvn").args(["-q", "-B", "package"]).current_dir(&folder).stdin(Stdio::null()).output();
    let Ok(built) = built else {
        eprintln!("SKIPPED: Maven is not on this machine");
        return None;
    };
    let said = String::from_utf8_lossy(&built.stdout);
    let unreachable = ["Could not transfer", "Could not resolve", "Unknown host"].iter().any(|why| said.contains(why));
    if !built.status.success() && unreachable {
        eprintln!("SKIPPED: Maven cannot fetch what the client needs:\n{said}");
        return None;
    }
    assert!(built.status.success(), "{said}");
    let programs = ["Drive.java", "Templates.java"].map(|program| format!("{ROOT}/tests/clients/{program}"));
    let mut compiler = Command::new("javac");
    compiler.args(["-encoding", "UTF-8", "-d", &format!("{folder}/target/programs"), "-cp", &class_path(&folder)]);
    let compiled = compiler.args(programs).output().unwrap();
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    Some(folder)
}

fn class_path(folder: &str) -> String {
    format!("{folder}/target/programs:{folder}/target/classes:{folder}/target/dependency/*")
}

/// A command that runs a program of `tests/clients` with the client and its libraries.
fn java_program(folder: &str, program: &str) -> Command {
    let mut command = Command::new("java");
    command.args(["-Dfile.encoding=UTF-8", "-Dsun.jnu.encoding=UTF-8", "-cp", &class_path(folder), program]);
    command.env("LC_ALL", "C.UTF-8");
    command
}

/// The client, then the output of Spring's templates for a key and an entry: in one build, because two would write to
/// one folder.
#[tokio::test(flavor = "multi_thread")]
async fn java() {
    let Some(folder) = built_java() else { return };
    revokes(|| java_program(&folder, "Drive")).await;

    let (redis, tokens) = (RedisServer::start(&[]).await, Tokens::new());
    let write = |form: &str| {
        let output = java_program(&folder, "Templates").args([&redis.port.to_string(), form, form]).output();
        let output = output.unwrap();
        assert!(output.status.success(), "{form}: {}", String::from_utf8_lossy(&output.stderr));
    };
    write("default"); // Under keys that no client reads.
    let store = format!("revocation: {{store: redis, redis: {{url: \"redis://127.0.0.1:{}/0\"}}}}\n", redis.port);
    let doorward = Doorward::start(&tokens.config(&store)).await;
    let checks = Checks::connect(&doorward.check).await;
    eventually("the key without an entry is counted", || async {
        doorward.metric("doorward_store_foreign_total").await == Some(1.0)
    })
    .await;
    doorward.logs("have no entry in the log").await;
    let reason =
        async |id: &str| checks.check(get("/").token(&tokens.with(json!({"jti": id})))).await.reason().to_owned();
    assert_eq!(reason("default").await, "ok", "Spring's default template revokes nothing");
    for form in ["string", "json", "jdk"] {
        assert_eq!(reason(form).await, "ok");
        write(form);
        eventually(&format!("{form} is refused"), || async { reason(form).await == "revoked" }).await;
    }
    assert_eq!(doorward.metric("doorward_store_unreadable_total").await, Some(0.0));
}
