//! Configuration, keys and certificates replaced under load, as Kubernetes replaces mounted files: the folder behind a
//! symlink, all files at once. No decision fails, and no decision is made by a mixture of old and new.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::json;
use tokio::task::JoinSet;

use crate::support::doorward::Doorward;
use crate::support::grpc::{Checks, get};
use crate::support::jwks_server::JwksServer;
use crate::support::tokens::Tokens;
use crate::support::{TempDir, eventually};
use crate::tls::{Authority, authority, channel, issue};

/// A mounted folder: `doorward.yaml -> ..data/doorward.yaml`, `..data -> ..v1`.
struct Mount {
    path: std::path::PathBuf,
    version: usize,
}

const FILES: [&str; 5] = ["doorward.yaml", "jwks.json", "tls.crt", "tls.key", "ca.crt"];

impl Mount {
    fn new(path: &Path) -> Self {
        let path = path.to_owned();
        for name in FILES {
            symlink(format!("..data/{name}"), path.join(name)).unwrap();
        }
        Self { path, version: 0 }
    }

    /// Puts a new version of all files in place by one rename, and removes the old one.
    fn swap(&mut self, files: &[(&str, String)]) {
        let old = self.path.join(format!("..v{}", self.version));
        self.version += 1;
        let new = self.path.join(format!("..v{}", self.version));
        std::fs::create_dir(&new).unwrap();
        for name in FILES {
            let text = files.iter().find(|(changed, _)| *changed == name).map(|(_, text)| text.clone());
            let text = text.unwrap_or_else(|| std::fs::read_to_string(old.join(name)).unwrap());
            std::fs::write(new.join(name), text).unwrap();
        }
        symlink(&new, self.path.join("..next")).unwrap();
        std::fs::rename(self.path.join("..next"), self.path.join("..data")).unwrap();
        let _ = std::fs::remove_dir_all(old);
    }
}

/// The results of the clients.
#[derive(Default)]
struct Met {
    decisions: AtomicUsize,
    handshakes: AtomicUsize,
    /// The newest version by which one was decided.
    newest: AtomicUsize,
    over: AtomicBool,
}

/// Checks every token in turn, and compares each answer with the version that it names.
async fn ask(checks: &Checks, tokens: &[String], met: &Met) {
    for token in tokens {
        let before = met.newest.load(Ordering::SeqCst);
        let verdict = checks.check(get("/which").token(token)).await;
        assert!(verdict.allowed(), "{verdict:?}");
        let version: usize = verdict.metadata["rule"].trim_start_matches('v').parse().unwrap();
        let named: Vec<_> = verdict.headers.keys().filter(|name| name.starts_with("x-v")).collect();
        assert_eq!(named, [&format!("x-v{version}")], "the rule and the identity are of one version");
        assert!(version >= before, "no version comes back: {version} after {before}");
        met.newest.fetch_max(version, Ordering::SeqCst);
        met.decisions.fetch_add(1, Ordering::SeqCst);
    }
}

/// The configuration of a version: its rule and identity header carry its number, and how the keys are kept
/// changes with it.
fn config(version: usize, remote: &str) -> String {
    let issuer = doorward::dev::ISSUER;
    let (refresh, max_stale) = (60 + version, 3600 + version);
    format!(
        "listen: {{check: \"127.0.0.1:0\", http: \"127.0.0.1:0\", tls: {{cert_file: tls.crt, key_file: tls.key, client_ca_file: ca.crt}}}}
issuers:
  - {{name: dev, issuer: \"{issuer}\", audiences: [demo], keys: {{jwks_file: jwks.json, max_stale: {max_stale}s}}}}
  - {{name: remote, issuer: \"https://remote.test\", audiences: [demo], keys: {{jwks_url: \"{remote}\", refresh: {refresh}s}}}}
revocation: {{store: embedded}}
identity: {{headers: {{x-v{version}: user_id}}}}
rules: [{{name: v{version}, match: {{path: /which}}}}]\n"
    )
}

fn key_set(of: &[&Tokens]) -> String {
    json!({"keys": of.iter().map(|tokens| tokens.issuer.jwks()["keys"][0].clone()).collect::<Vec<_>>()}).to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mounted_folder_is_swapped_under_load_without_one_failed_decision() {
    let (stable, remote) = (Tokens::new(), Tokens::new());
    let provider = JwksServer::start(remote.issuer.jwks()).await;
    let dir = TempDir::new();
    let mut mount = Mount::new(dir.path());
    let authorities: Arc<[Authority; 2]> = Arc::new([authority(), authority()]);
    let both = [authorities[0].pem(), authorities[1].pem()].concat();
    let (certificate, key) = issue(&authorities[0]);
    mount.swap(&[
        ("doorward.yaml", config(1, &provider.url())),
        ("jwks.json", key_set(&[&stable])),
        ("tls.crt", certificate),
        ("tls.key", key),
        ("ca.crt", both.clone()),
    ]);
    let written = config(1, &provider.url());
    let doorward = Doorward::launch_in(dir, &written).await;
    let address = doorward.check.clone();
    let tokens: Arc<[String]> =
        [stable.of("alice"), remote.with(json!({"iss": "https://remote.test"}))].into_iter().collect();
    let client = issue(&authorities[0]);
    let connect = {
        let (authorities, client) = (authorities.clone(), client.clone());
        async move || channel(&address, &[&authorities[0], &authorities[1]], Some(&client)).await
    };
    let first = Checks::over(connect().await.unwrap());
    eventually("both issuers' keys are there", || async {
        first.check(get("/which").token(&tokens[0])).await.allowed()
            && first.check(get("/which").token(&tokens[1])).await.allowed()
    })
    .await;

    // Clients with one connection, and clients with a new one each time.
    let (met, mut clients) = (Arc::new(Met::default()), JoinSet::new());
    for _ in 0..4 {
        let (checks, tokens, met) = (first.clone(), tokens.clone(), met.clone());
        clients.spawn(async move {
            while !met.over.load(Ordering::SeqCst) {
                ask(&checks, &tokens, &met).await;
            }
        });
    }
    let (tokens_again, met_again) = (tokens.clone(), met.clone());
    clients.spawn(async move {
        while !met_again.over.load(Ordering::SeqCst) {
            ask(&Checks::over(connect().await.unwrap()), &tokens_again, &met_again).await;
            met_again.handshakes.fetch_add(1, Ordering::SeqCst);
        }
    });

    // The provider is down throughout: loaded keys must be kept.
    let away = provider.hold().await;
    let in_force = async |version: usize| {
        eventually("the next version is in force", || async { met.newest.load(Ordering::SeqCst) == version }).await;
    };
    for version in 2..=6 {
        let rotated = Tokens::new();
        let (certificate, key) = issue(&authorities[version % 2]);
        let token = rotated.of("bob");
        assert_eq!(first.check(get("/which").token(&token)).await.reason(), "unknown_key");
        mount.swap(&[
            ("doorward.yaml", config(version, &provider.url())),
            ("jwks.json", key_set(&[&stable, &rotated])),
            ("tls.crt", certificate),
            ("tls.key", key),
        ]);
        in_force(version).await;
        eventually("the new key is in force", || async { first.check(get("/which").token(&token)).await.allowed() })
            .await;
        // A bad version in between changes nothing.
        mount.swap(&[("doorward.yaml", "issuers: []\n".to_owned())]);
        eventually("it is refused", || async { refused(&doorward) == version - 1 }).await;
        assert!(first.check(get("/which").token(&token)).await.allowed());
    }
    // The keys move: decisions wait for them.
    drop(away);
    mount.swap(&[("doorward.yaml", config(7, &format!("{}?moved", provider.url())))]);
    in_force(7).await;
    // Only those of the second authority may ask: who is connected stays, others must show its certificate.
    met.over.store(true, Ordering::SeqCst);
    while let Some(ended) = clients.join_next().await {
        ended.unwrap();
    }
    mount.swap(&[("ca.crt", authorities[1].pem())]);
    let all = [&authorities[0], &authorities[1]];
    let (address, second) = (&doorward.check, issue(&authorities[1]));
    let is_served = async |client: &(String, String)| match channel(address, &all, Some(client)).await {
        Ok(channel) => Checks::over(channel).send(get("/which").message()).await.is_ok(),
        Err(_) => false,
    };
    eventually("the old authority is no longer trusted", || async { !is_served(&client).await }).await;
    assert!(is_served(&second).await);
    assert!(first.check(get("/which").token(&tokens[0])).await.allowed(), "who is connected stays");
    let (decisions, handshakes) = (met.decisions.load(Ordering::SeqCst), met.handshakes.load(Ordering::SeqCst));
    println!("{decisions} decisions, {handshakes} handshakes, {} swaps, none failed", mount.version);
    assert!(handshakes > 5);
}

/// How many versions were refused, by the log.
fn refused(doorward: &Doorward) -> usize {
    doorward.log.lock().unwrap().iter().filter(|line| line.contains("configuration not reloaded")).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_that_need_a_restart_are_named_and_unchanged() {
    let tokens = Tokens::new();
    let doorward = Doorward::start(&tokens.config("")).await;
    let checks = Checks::connect(&doorward.check).await;
    let (file, alice) = (doorward.dir.path().join("doorward.yaml"), tokens.of("alice"));
    let original = std::fs::read_to_string(&file).unwrap();
    let named = || {
        let lines = doorward.log.lock().unwrap();
        let last = lines.iter().rev().find(|line| line.contains("take effect at the next start"));
        last.map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["keys"].clone())
    };
    let reloads = async || doorward.metric("doorward_config_reloads_total{result=\"ok\"}").await;
    let next = original.replace("store: embedded", "store: embedded, list: allow, max_staleness: 20s");
    assert_ne!(next, original);
    std::fs::write(&file, next).unwrap();
    eventually("it is reloaded", || async { reloads().await == Some(1.0) }).await;
    assert_eq!(named(), Some("[\"revocation.list\"]".into()));
    assert!(checks.check(get("/").token(&alice)).await.allowed(), "it is not registered");

    doorward.log.lock().unwrap().clear();
    let lifetimes = original.replace("audiences:", "max_lifetime: 48h, audiences:");
    std::fs::write(&file, format!("{lifetimes}limits: {{decision_timeout: 2s}}\n")).unwrap();
    eventually("it is reloaded", || async { reloads().await == Some(2.0) }).await;
    assert_eq!(named(), None, "all of it is in force");
    let long = tokens.with(json!({"exp": Tokens::claims("alice")["exp"].as_i64().unwrap() + 36 * 3600}));
    assert!(checks.check(get("/").token(&long)).await.allowed());
}

/// How a file is written in two pieces.
#[derive(Clone, Copy, Debug)]
enum Pieces {
    /// One writer that keeps the file open for longer than the settling time.
    OneWriter,
    /// Two writers, one after the other.
    TwoWriters,
    /// The file is removed first.
    Anew,
    /// The first half is moved into place by a writer that continues to write.
    MovedTooSoon,
}

/// Writes the halves, and calls `between` from time to time until the second is due.
async fn write_in_pieces<F: Future<Output = ()>>(
    path: &Path,
    [first, second]: [&str; 2],
    pieces: Pieces,
    between: impl Fn() -> F,
) {
    use std::io::Write as _;
    let beside = path.with_extension("part");
    let (start, pause) = match pieces {
        Pieces::OneWriter => (path, 4500),
        Pieces::TwoWriters => (path, 2000),
        Pieces::Anew => {
            std::fs::remove_file(path).unwrap();
            (path, 4500)
        }
        Pieces::MovedTooSoon => (beside.as_path(), 1000),
    };
    let mut file = std::fs::File::create(start).unwrap();
    file.write_all(first.as_bytes()).unwrap();
    if start != path {
        std::fs::rename(start, path).unwrap();
        file.flush().unwrap();
        file.write_all(b"\n").unwrap();
    }
    if matches!(pieces, Pieces::TwoWriters) {
        drop(file);
        file = std::fs::OpenOptions::new().append(true).open(path).unwrap();
    }
    let due = std::time::Instant::now() + std::time::Duration::from_millis(pause);
    while std::time::Instant::now() < due {
        between().await;
    }
    file.write_all(second.as_bytes()).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn no_check_is_decided_by_half_of_a_configuration() {
    let tokens = Tokens::new();
    let rule = |name: &str| format!("rules:\n  - name: {name}\n    match: {{path_prefix: /admin}}\n");
    let require = "    require: {scopes: [admin]}\n";
    let doorward = Doorward::start(&tokens.config(&format!("{}{require}", rule("v0")))).await;
    let text = std::fs::read_to_string(doorward.dir.path().join("doorward.yaml")).unwrap();
    let (checks, alice) = (Checks::connect(&doorward.check).await, tokens.of("alice"));
    let (file, asked) = (doorward.dir.path().join("doorward.yaml"), AtomicUsize::new(0));
    let refused = async || {
        let verdict = checks.check(get("/admin").token(&alice)).await;
        assert_eq!(verdict.reason(), "insufficient_scope", "by half of a configuration");
        asked.fetch_add(1, Ordering::SeqCst);
        verdict.metadata["rule"].clone()
    };
    let all = [Pieces::OneWriter, Pieces::TwoWriters, Pieces::Anew, Pieces::MovedTooSoon];
    for (version, pieces) in (1..).zip(all) {
        let name = format!("v{version}");
        let first = text.replace("name: v0", &format!("name: {name}")).replace(require, "");
        write_in_pieces(&file, [&first, require], pieces, || async {
            // A signal about a change may arrive before the change is complete.
            doorward.process.signal("HUP");
            assert_ne!(refused().await, name, "{pieces:?}: before it is complete");
        })
        .await;
        eventually("the whole is in force", || async { refused().await == name }).await;
    }
    println!("{} checks, none by a half", asked.into_inner());
    let refusals = doorward.metric("doorward_config_reloads_total{result=\"refused\"}").await;
    assert!(refusals.is_none_or(|refusals| refusals < 1.0), "a half was read");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_token_is_accepted_by_half_of_a_secret() {
    let secret = |seed: char| seed.to_string().repeat(64);
    let issuer = doorward::dev::ISSUER;
    let config = format!(
        "revocation: {{store: embedded}}\nissuers: [{{name: dev, issuer: \"{issuer}\", audiences: [demo], algorithms: [HS256], keys: {{secret_file: secret}}}}]\n"
    );
    let dir = TempDir::new();
    let file = dir.path().join("secret");
    std::fs::write(&file, secret('a')).unwrap();
    let doorward = Doorward::launch_in(dir, &config).await;
    doorward.ready().await;
    let checks = Checks::connect(&doorward.check).await;
    let accepts = async |secret: &str| {
        let key = jsonwebtoken::EncodingKey::from_secret(secret.as_bytes()).unwrap();
        let token = jsonwebtoken::encode(&jsonwebtoken::Header::default(), &Tokens::claims("alice"), &key).unwrap();
        checks.check(get("/").token(&token)).await.allowed()
    };
    assert!(accepts(&secret('a')).await);
    for (seed, pieces) in [('b', Pieces::OneWriter), ('c', Pieces::TwoWriters)] {
        let next = secret(seed);
        let (first, second) = next.split_at(40);
        write_in_pieces(&file, [first, second], pieces, || async {
            assert!(!accepts(first).await, "{pieces:?}");
            assert!(!accepts(&next).await, "{pieces:?}");
        })
        .await;
        eventually("the whole secret is in force", || async { accepts(&next).await }).await;
    }
}
