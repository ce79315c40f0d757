//! Start, stop and reload.

use std::io::{BufRead, BufReader, Read};
use std::process::{ChildStderr, Command, Stdio};

use serde_json::Value;
use tokio::task::JoinSet;

use crate::support::doorward::{Doorward, run};
use crate::support::grpc::{Checks, get};
use crate::support::jwks_server::JwksServer;
use crate::support::tokens::Tokens;
use crate::support::{Process, TempDir, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn probes_metrics_health_and_reflection_answer() {
    let tokens = Tokens::new();
    let doorward = Doorward::start(&tokens.config("")).await;
    let checks = Checks::connect(&doorward.check).await;
    assert!(checks.check(get("/").token(&tokens.of("alice"))).await.allowed());
    checks.check(get("/")).await;
    assert_eq!(doorward.get("/livez").await.0, 200);
    let (status, body) = doorward.get("/readyz").await;
    assert_eq!((status, body.trim()), (200, "{\"missing\":[],\"ready\":true}"));
    let response = reqwest::get(format!("http://{}/metrics", doorward.http)).await.unwrap();
    assert_eq!(response.headers()["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    let text = response.text().await.unwrap();
    for series in [
        "doorward_checks_total{decision=\"allowed\",reason=\"ok\",rule=\"default\"} 1",
        "doorward_checks_total{decision=\"denied\",reason=\"missing_token\",rule=\"default\"} 1",
        "doorward_check_duration_seconds_count 2",
        "doorward_revocations{kind=\"token\"} 0",
        "doorward_view_age_seconds 0",
        "doorward_store_up 1",
        "process_resident_memory_bytes",
        "doorward_build_info{version=",
    ] {
        assert!(text.contains(series), "{series} in\n{text}");
    }
    let named: Vec<_> =
        text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split(['{', ' ']).next()).collect();
    for name in named {
        let family = name.trim_end_matches("_bucket").trim_end_matches("_sum").trim_end_matches("_count");
        assert!(
            text.contains(&format!("# HELP {family} ")) || text.contains(&format!("# HELP {name} ")),
            "{name} has no help"
        );
    }

    let channel =
        tonic::transport::Endpoint::new(format!("http://{}", doorward.check)).unwrap().connect().await.unwrap();
    let mut health = tonic_health::pb::health_client::HealthClient::new(channel.clone());
    for service in ["", "envoy.service.auth.v3.Authorization"] {
        let request = tonic_health::pb::HealthCheckRequest { service: service.to_owned() };
        assert_eq!(health.check(request).await.unwrap().into_inner().status, 1, "SERVING");
    }
    let mut reflection = tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient::new(channel);
    let ask = tonic_reflection::pb::v1::ServerReflectionRequest {
        message_request: Some(
            tonic_reflection::pb::v1::server_reflection_request::MessageRequest::FileContainingSymbol(
                "envoy.service.auth.v3.CheckRequest".to_owned(),
            ),
        ),
        ..Default::default()
    };
    let mut answers = reflection.server_reflection_info(tokio_stream::once(ask)).await.unwrap().into_inner();
    let answer = answers.message().await.unwrap().unwrap().message_response.unwrap();
    assert!(
        matches!(
            answer,
            tonic_reflection::pb::v1::server_reflection_response::MessageResponse::FileDescriptorResponse(_)
        ),
        "{answer:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_answers_what_is_in_flight_and_exits_with_0() {
    let (old, new) = (Tokens::new(), Tokens::new());
    let provider = JwksServer::start(old.issuer.jwks()).await;
    let issuer = format!(
        "{{name: dev, issuer: \"{}\", audiences: [demo], keys: {{jwks_url: \"{}\"}}}}",
        doorward::dev::ISSUER,
        provider.url()
    );
    let config = format!("issuers: [{issuer}]\nrevocation: {{store: embedded}}\nlimits: {{decision_timeout: 20s}}\n");
    let mut doorward = Doorward::start(&config).await;
    let checks = Checks::connect(&doorward.check).await;
    // A token of a key to come keeps its check in flight while the provider is slow.
    provider.publish(new.issuer.jwks());
    let held = provider.hold().await;
    let before = provider.fetches();
    let token = new.of("alice");
    let mut waiting = JoinSet::new();
    waiting.spawn(async move { checks.check(get("/").token(&token)).await });
    eventually("the check waits for the provider", || async { provider.fetches() > before }).await;
    doorward.process.signal("TERM");
    eventually("draining", || async { doorward.logged("draining") }).await;
    drop(held);
    assert!(waiting.join_next().await.unwrap().unwrap().allowed());
    assert_eq!(doorward.exit_code().await, Some(0));
    doorward.logs("stopped").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_port_and_a_broken_configuration_are_named() {
    let tokens = Tokens::new();
    let first = Doorward::start(&tokens.config("")).await;
    let dir = crate::support::TempDir::new();
    let file = dir.path().join("doorward.yaml");
    let start = |listen: &str| {
        std::fs::write(&file, format!("{listen}{}", tokens.config(""))).unwrap();
        run(&["serve", "--config", file.to_str().unwrap()], "")
    };
    let (code, _, error) = start(&format!("listen: {{check: \"{}\", http: null}}\n", first.check));
    assert!(code == 1 && error.contains("listen.check") && error.contains(&first.check), "{code} {error}");
    let (code, _, error) = start(&format!("listen: {{check: \"127.0.0.1:0\", http: \"{}\"}}\n", first.http));
    assert!(code == 1 && error.contains("listen.http"), "{code} {error}");
    let socket = dir.path().join("check.sock");
    std::fs::write(&socket, "not a socket").unwrap();
    let (code, _, error) = start(&format!("listen: {{check: \"unix:{}\", http: null}}\n", socket.display()));
    assert!(code == 1 && error.contains("not a socket"), "{code} {error}");
    let (code, _, error) = start("listen: {chekc: 1}\n");
    assert!(code == 2 && error.contains("chekc"), "{code} {error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unix_socket_is_made_afresh_with_its_mode() {
    use std::os::unix::fs::PermissionsExt;
    let tokens = Tokens::new();
    let config = tokens.config("listen: {check: \"unix:DIR/check.sock\", http: \"127.0.0.1:0\"}\n");
    let mut first = Doorward::start(&config).await;
    let path = first.check.trim_start_matches("unix:").to_owned();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
    first.process.signal("KILL");
    first.exit_code().await;
    assert!(std::fs::metadata(&path).is_ok(), "a killed process leaves its socket behind");
    let second = Doorward::launch_in(std::mem::replace(&mut first.dir, crate::support::TempDir::new()), &config).await;
    let checks = Checks::connect(&second.check).await;
    assert!(checks.check(get("/").token(&tokens.of("alice"))).await.allowed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_configuration_takes_effect_and_a_bad_one_does_not() {
    let tokens = Tokens::new();
    let doorward = Doorward::start(&tokens.config("")).await;
    let checks = Checks::connect(&doorward.check).await;
    let file = doorward.dir.path().join("doorward.yaml");
    let original = std::fs::read_to_string(&file).unwrap();
    let replace = |text: &str| {
        let next = doorward.dir.path().join("next.yaml");
        std::fs::write(&next, text).unwrap();
        std::fs::rename(&next, &file).unwrap();
    };
    assert_eq!(checks.check(get("/open")).await.reason(), "missing_token");
    replace(&format!("{original}rules:\n  - {{name: open, match: {{path: /open}}, access: public}}\n"));
    eventually("the new rule is in force", || async { checks.check(get("/open")).await.allowed() }).await;
    replace(&format!("{original}rules:\n  - {{name: open, acces: public}}\n"));
    eventually("the bad file is counted", || async {
        doorward.metric("doorward_config_reloads_total{result=\"refused\"}").await == Some(1.0)
    })
    .await;
    doorward.logs("acces").await;
    assert!(checks.check(get("/open")).await.allowed(), "the good one stays");
    assert!(checks.check(get("/").token(&tokens.of("alice"))).await.allowed());
    std::fs::write(&file, &original).unwrap();
    doorward.process.signal("HUP");
    eventually("back to the first", || async { !checks.check(get("/open")).await.allowed() }).await;
}

/// A Doorward whose log has no reader after it listens; the returned reader is at that place.
async fn unread(tokens: &Tokens) -> (Doorward, BufReader<ChildStderr>) {
    let dir = TempDir::new();
    let file = dir.path().join("doorward.yaml");
    let listen = "listen: {check: \"127.0.0.1:0\", http: \"127.0.0.1:0\"}\n";
    std::fs::write(&file, format!("{listen}{}", tokens.config(""))).unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_doorward"))
        .args(["serve", "--config"])
        .arg(&file)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap());
    let process = Process(child);
    let listening = log.by_ref().lines().map_while(Result::ok).find_map(|line| {
        let line: Value = serde_json::from_str(&line).unwrap();
        (line["message"] == "listening").then_some(line)
    });
    let listening = listening.expect("it listens");
    let text = |name: &str| listening[name].as_str().unwrap().to_owned();
    let (check, http) = (text("check"), text("http").parse().unwrap());
    let doorward = Doorward { process, check, http, admin: None, log: std::sync::Arc::default(), dir };
    doorward.ready().await;
    (doorward, log)
}

const LOST: &str = "doorward_degraded_total{control=\"log\",fallback=\"drop\"}";

#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_log_ends_nothing() {
    let tokens = Tokens::new();
    let (mut doorward, log) = unread(&tokens).await;
    let checks = Checks::connect(&doorward.check).await;
    drop(log);
    for _ in 0..3 {
        assert_eq!(checks.check(get("/")).await.reason(), "missing_token");
    }
    eventually("the lines are counted", || async { doorward.metric(LOST).await >= Some(3.0) }).await;
    doorward.process.signal("HUP");
    eventually("it reloads", || async {
        doorward.metric("doorward_config_reloads_total{result=\"ok\"}").await == Some(1.0)
    })
    .await;
    assert!(checks.check(get("/").token(&tokens.of("alice"))).await.allowed());
    assert_eq!(doorward.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_without_a_reader_delays_nothing() {
    let tokens = Tokens::new();
    let (mut doorward, log) = unread(&tokens).await;
    let checks = Checks::connect(&doorward.check).await;
    // First the pipe fills, then the queue behind it.
    eventually("lines are dropped", || async {
        for _ in 0..500 {
            assert_eq!(checks.check(get("/")).await.reason(), "missing_token");
        }
        doorward.metric(LOST).await > Some(0.0)
    })
    .await;
    assert_eq!(doorward.stop().await, Some(0), "the end does not wait for a reader");
    // Lines that were not dropped are complete.
    let mut lines: Vec<_> = log.lines().map(Result::unwrap).collect();
    lines.pop(); // The last line was cut off.
    assert!(lines.iter().all(|line| serde_json::from_str::<Value>(line).is_ok()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_was_missed_is_taken_when_it_comes() {
    let tokens = Tokens::new();
    let doorward = Doorward::start(&tokens.config("")).await;
    let checks = Checks::connect(&doorward.check).await;
    let (file, keys) = (doorward.dir.path().join("doorward.yaml"), doorward.dir.path().join("later.json"));
    let original = std::fs::read_to_string(&file).unwrap();
    let jwks = tokens.issuer.jwks().to_string();
    let with_file = original.replace(&format!("jwks: {jwks}"), "jwks_file: later.json");
    assert_ne!(with_file, original);
    std::fs::write(&file, format!("{with_file}errors: {{realm: later}}\n")).unwrap();
    eventually("it is refused", || async {
        doorward.metric("doorward_config_reloads_total{result=\"refused\"}").await == Some(1.0)
    })
    .await;
    std::fs::write(&keys, jwks).unwrap();
    eventually("it is in force", || async {
        checks.check(get("/")).await.headers["www-authenticate"].contains("later")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_cannot_be_read_holds_nothing_up() {
    let tokens = Tokens::new();
    let mut doorward = Doorward::start(&tokens.config("")).await;
    let checks = Checks::connect(&doorward.check).await;
    let file = doorward.dir.path().join("doorward.yaml");
    let original = std::fs::read_to_string(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    // A pipe without a writer.
    assert!(Command::new("mkfifo").arg(&file).status().unwrap().success());
    eventually("it gives up", || async {
        assert_eq!(doorward.get("/livez").await.0, 200);
        assert!(checks.check(get("/").token(&tokens.of("alice"))).await.allowed());
        doorward.metric("doorward_config_reloads_total{result=\"refused\"}").await == Some(1.0)
    })
    .await;
    std::fs::remove_file(&file).unwrap();
    std::fs::write(&file, original).unwrap();
    eventually("what can be read is taken", || async {
        doorward.metric("doorward_config_reloads_total{result=\"ok\"}").await == Some(1.0)
    })
    .await;
    assert_eq!(doorward.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_a_restart_empties_is_reported() {
    let tokens = Tokens::new();
    let warning = "revocation.embedded.path: is missing";
    for (section, durable) in [("", 0.0), (", embedded: {path: DIR/revocations}", 1.0)] {
        let config = tokens.config(&format!("revocation: {{store: embedded{section}}}\n"));
        let doorward = Doorward::start(&config).await;
        assert_eq!(doorward.metric("doorward_store_durable").await, Some(durable));
        assert_eq!(doorward.logged(warning), durable == 0.0, "{section}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn warnings_are_logged_at_every_reload() {
    let tokens = Tokens::new();
    let doorward = Doorward::start(&tokens.config("")).await;
    let file = doorward.dir.path().join("doorward.yaml");
    let original = std::fs::read_to_string(&file).unwrap();
    std::fs::write(
        &file,
        format!("{original}rules: [{{name: a, match: {{path: /a}}, access: public, on_stale: deny}}]\n"),
    )
    .unwrap();
    eventually("it is warned of", || async { doorward.logged("rules[0].on_stale: has no effect") }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_shows_version_and_readiness() {
    let tokens = Tokens::new();
    let doorward = Doorward::start(&tokens.config("")).await;
    let page = async |doorward: &Doorward| {
        let response = reqwest::get(format!("http://{}/", doorward.http)).await.unwrap();
        assert_eq!(
            (response.status().as_u16(), response.headers()["content-type"].to_str().unwrap()),
            (200, "text/html; charset=utf-8")
        );
        let policy = response.headers()["content-security-policy"].to_str().unwrap().to_owned();
        assert!(policy.starts_with("default-src 'none'; style-src 'sha256-"), "{policy}");
        assert_eq!(response.headers()["x-content-type-options"], "nosniff");
        response.text().await.unwrap()
    };
    let ready = page(&doorward).await;
    assert!(ready.contains("✓ Ready") && !ready.contains("://"), "nothing of another host: {ready}");
    let links = regex::Regex::new("href=\"([^\"]+)\"").unwrap();
    let links: Vec<_> = links.captures_iter(&ready).map(|link| link[1].to_owned()).collect();
    assert!(links.len() >= 4);
    for link in links {
        assert_eq!(doorward.get(&format!("/{link}")).await.0, 200, "{link}");
    }

    // The keys' host does not answer: it is named on the page, by the probe and in the log.
    let closed = format!("localhost:{}", crate::ledger::support::free_port());
    let unreachable = format!(
        "revocation: {{store: embedded}}\nissuers: [{{name: main, issuer: \"https://a.test\", audiences: [a], keys: {{jwks_url: \"http://{closed}/jwks\"}}}}]\n"
    );
    let doorward = Doorward::launch(&unreachable).await;
    eventually("the keys were tried", || async {
        doorward.get("/readyz").await.1.contains("no issuer's keys are loaded")
    })
    .await;
    let missing = doorward.get("/readyz").await.1;
    assert!(missing.contains("main (from localhost)"), "{missing}");
    let page = page(&doorward).await;
    assert!(page.contains("✕ Not ready") && page.contains("main (from localhost)"), "{page}");
    eventually("the log warns when it lasts", || async { doorward.logged("still not ready") }).await;
    let lines = doorward.log.lock().unwrap().clone();
    let lines: Vec<Value> = lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let line = |message: &str| lines.iter().find(|line| line["message"] == message).unwrap();
    assert_eq!((&line("not ready")["level"], &line("not ready")["missing"]), (&"INFO".into(), &"keys".into()));
    assert_eq!(
        (&line("still not ready")["level"], &line("still not ready")["missing"]),
        (&"WARN".into(), &"keys".into())
    );
    assert_eq!((&line("in force")["issuers"], &line("in force")["rules"]), (&"main".into(), &0.into()));
    let debug = lines.iter().find(|line| line.to_string().contains("[(") || line.to_string().contains("Some("));
    assert!(debug.is_none(), "text for people: {debug:?}");
}

#[test]
fn a_failed_start_names_the_remedy() {
    let (dir, tokens) = (TempDir::new(), Tokens::new());
    let file = dir.path().join("doorward.yaml");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap();
    std::fs::write(dir.path().join("file"), "").unwrap();
    let folder = dir.path().display();
    for (check, http, expected) in [
        (
            "127.0.0.1:0".to_owned(),
            taken.to_string(),
            "another process listens there: stop it, or set `listen.http` (or DOORWARD__LISTEN__HTTP)".to_owned(),
        ),
        (
            taken.to_string(),
            "127.0.0.1:0".to_owned(),
            "stop it, or set `listen.check` (or DOORWARD__LISTEN__CHECK)".to_owned(),
        ),
        (
            format!("unix:{folder}/none/check.sock"),
            "127.0.0.1:0".to_owned(),
            format!("the folder {folder}/none does not exist: make it"),
        ),
        (format!("unix:{folder}/file"), "127.0.0.1:0".to_owned(), "remove the file".to_owned()),
    ] {
        std::fs::write(&file, format!("listen: {{check: \"{check}\", http: \"{http}\"}}\n{}", tokens.config("")))
            .unwrap();
        let (code, _, error) = run(&["serve", "--config", file.to_str().unwrap()], "");
        assert!(code == 1 && error.contains(&expected), "{expected} in {error}");
    }
}

/// Text for people on a terminal, JSON for programs elsewhere.
#[test]
fn the_log_is_text_on_a_terminal() {
    let (dir, tokens) = (TempDir::new(), Tokens::new());
    let file = dir.path().join("doorward.yaml");
    let listen = format!("listen: {{check: \"unix:{}/none/check.sock\"}}\n", dir.path().display());
    std::fs::write(&file, format!("{listen}{}", tokens.config(""))).unwrap();
    let serve = format!("{} serve --config {}", env!("CARGO_BIN_EXE_doorward"), file.display());
    let typescript = dir.path().join("typescript");
    let script =
        Command::new("script").args(["--quiet", "--command", &serve]).arg(&typescript).stdin(Stdio::null()).output();
    assert!(script.unwrap().status.success(), "script of util-linux runs");
    let shown = std::fs::read_to_string(&typescript).unwrap();
    assert!(shown.contains("ERROR") && shown.contains("failed") && !shown.contains("{\""), "{shown}");
    let (_, _, piped) = run(&["serve", "--config", file.to_str().unwrap()], "");
    assert!(piped.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()), "{piped}");
}
