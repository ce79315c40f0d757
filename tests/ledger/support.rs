//! Real Redis servers on free ports, and instances that follow them.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use doorward::authz::claims::{IssuerName, Timestamp};
use doorward::authz::revocation::{Kind, Origin, Revocation, Target, TargetId, Watermark};
use doorward::sources::ledger::{AdoptedKeys, Names, Redis, RedisConfig, RedisLedger, RevocationLedger};
use doorward::sources::replica::{Replica, ReplicaStats};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::support::clock::RedisClock;

/// Long enough for a loaded machine; a test that passes never waits for it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

const NEW_KEY: &str = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";

/// A Redis server of this test, gone with it.
pub(crate) struct RedisServer {
    pub(crate) port: u16,
    directory: PathBuf,
    process: Option<Child>,
    options: Vec<String>,
    clock: Option<RedisClock>,
}

impl RedisServer {
    pub(crate) async fn start(options: &[&str]) -> Self {
        let mut server = Self::stopped(options);
        server.run().await;
        server
    }

    /// A Redis whose clock is stepped by [`Self::step_clock`], across its restarts.
    pub(crate) async fn start_with_clock(options: &[&str]) -> Self {
        let mut server = Self::stopped(options);
        server.clock = Some(RedisClock::new());
        server.run().await;
        server
    }

    /// Sets its clock to the machine's time and this offset: `+60s`, `-1h`, `+0`.
    pub(crate) fn step_clock(&self, offset: &str) {
        self.clock.as_ref().unwrap().step(offset);
    }

    /// Writes the note, before any instance does, that instances have seen its clock stable for
    /// this long.
    pub(crate) fn has_been_even_for(&self, duration: Duration) {
        let time = self.cli(&["TIME"]);
        let last = Timestamp::from_secs(time.lines().next().unwrap().parse().unwrap());
        let note = [(last.minus(duration), "since"), (last, "last"), (now(), "wall")];
        for (at, name) in note {
            self.cli(&["ZADD", "doorward:{r}:clock", &at.as_millis().to_string(), name]);
        }
    }

    /// A server that has a port and a directory, and does not run yet.
    pub(crate) fn stopped(options: &[&str]) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let port = free_port();
        let name = format!("doorward-redis-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let directory = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&directory).unwrap();
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        Self { port, directory, process: None, options, clock: None }
    }

    pub(crate) async fn run(&mut self) {
        let mut server = self.clock.as_ref().map_or_else(|| Command::new("redis-server"), RedisClock::redis);
        self.spawn(&mut server, &["--save", ""]).await;
    }

    /// Runs from a configuration file, which a sentinel wants to write to.
    pub(crate) async fn run_from(&mut self, file: &Path, options: &[&str]) {
        self.spawn(Command::new("redis-server").arg(file), options).await;
    }

    async fn spawn(&mut self, command: &mut Command, options: &[&str]) {
        command.args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--dir"]).arg(&self.directory);
        command.args(["--loglevel", "warning"]).args(options).args(&self.options).current_dir(&self.directory);
        self.process = Some(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        let answers = ["PONG", "NOAUTH Authentication required."];
        eventually("redis answers", || answers.contains(&self.try_cli(&["PING"]).as_str())).await;
    }

    /// More options, for the next run.
    pub(crate) fn options(&mut self, options: &[&str]) {
        self.options.extend(options.iter().map(|option| (*option).to_owned()));
    }

    /// Lets it serve TLS, too, from the next run on, with a certificate of the authority in `ca.pem`; returns how to reach
    /// it by that.
    pub(crate) fn serve_tls(&mut self) -> Redis {
        self.make_authority("ca");
        self.openssl(&format!("req {NEW_KEY} -keyout server.key -out server.csr -subj /CN=redis"));
        let extensions = "subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\n";
        std::fs::write(self.directory.join("ext"), extensions).unwrap();
        self.openssl("x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out server.pem -extfile ext");
        let port = free_port();
        self.options(&["--tls-port", &port.to_string(), "--tls-cert-file", "server.pem"]);
        self.options(&["--tls-key-file", "server.key", "--tls-ca-cert-file", "ca.pem", "--tls-auth-clients", "no"]);
        let ca_file = Some(self.directory.join("ca.pem"));
        Redis { ca_file, ..Redis::from(format!("rediss://127.0.0.1:{port}")) }
    }

    /// Makes a certificate authority: `NAME.pem` and `NAME.key` in the directory.
    pub(crate) fn make_authority(&self, name: &str) {
        let files = format!("-keyout {name}.key -out {name}.pem -subj /CN=test-{name}");
        self.openssl(&format!("req -x509 {NEW_KEY} -days 2 {files}"));
    }

    fn openssl(&self, arguments: &str) {
        let made = Command::new("openssl").args(arguments.split(' ')).current_dir(&self.directory).output().unwrap();
        assert!(made.status.success(), "{arguments}: {}", String::from_utf8_lossy(&made.stderr));
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// kill -9.
    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// SIGSTOP and SIGCONT.
    pub(crate) fn signal(&self, signal: &str) {
        let pid = self.process.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// With long deadlines; a test of a deadline sets its own.
    pub(crate) fn config(&self) -> RedisConfig {
        patient(self.url())
    }

    /// The raw output of redis-cli.
    #[track_caller]
    pub(crate) fn cli(&self, arguments: &[&str]) -> String {
        let output = self.try_cli(arguments);
        assert!(!output.starts_with("ERR"), "{arguments:?}: {output}");
        output
    }

    pub(crate) fn try_cli(&self, arguments: &[&str]) -> String {
        let output = Command::new("redis-cli").args(["-p", &self.port.to_string()]).args(arguments).output().unwrap();
        String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
    }

    /// Runs lines through one redis-cli, so that a transaction stays on one connection.
    pub(crate) fn script(&self, lines: &str) -> String {
        use std::io::Write;
        let mut cli = Command::new("redis-cli")
            .args(["-p", &self.port.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        cli.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
        String::from_utf8(cli.wait_with_output().unwrap().stdout).unwrap()
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// A running replica, like that of a separate process.
pub(crate) struct Instance {
    pub(crate) replica: Arc<Replica>,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl Instance {
    /// Started, not awaited.
    pub(crate) fn launch(config: RedisConfig) -> Self {
        Self::launch_holding(config, Duration::from_secs(30))
    }

    /// As [`Self::launch`], with rules that allow a view of this age.
    pub(crate) fn launch_holding(config: RedisConfig, max_staleness: Duration) -> Self {
        let ledger = RevocationLedger::from(RedisLedger::new(config).unwrap());
        let replica = Arc::new(Replica::new(ledger, ReplicaStats::new().unwrap()));
        replica.hold_for(max_staleness);
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(Arc::clone(&replica).run(stop.clone()));
        Self { replica, stop, tasks }
    }

    pub(crate) async fn start(server: &RedisServer) -> Self {
        let instance = Self::launch(server.config());
        instance.becomes_ready().await;
        instance
    }

    pub(crate) async fn becomes_ready(&self) {
        eventually("the instance is ready", || self.replica.status().ready).await;
    }

    pub(crate) fn age(&self) -> Option<Duration> {
        self.replica.freshness().age(doorward::clock::Steady::now())
    }

    /// Whether a token of this target, issued a minute ago, is refused.
    pub(crate) fn refuses(&self, target: &Target) -> bool {
        let issued_at = now().minus(Duration::from_secs(60));
        self.replica.index().find([target], Some(issued_at)).is_some()
    }

    pub(crate) async fn comes_to_refuse(&self, target: &Target) {
        eventually(&format!("{target:?} is refused"), || self.refuses(target)).await;
    }

    pub(crate) async fn end(mut self) {
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
    }
}

/// Below the range of ports that the system assigns (from 32768) and that of `envoy/demo.sh` (from 20000): no other
/// process is given it before it is used, nor while a server restarts.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let first = std::process::id().wrapping_mul(61); // Another run on this machine begins elsewhere.
    loop {
        let at = first.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % 8_000;
        let port = 11_000 + u16::try_from(at).unwrap();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Whether the store's answer to a lookup of the token `j` is a revocation; an answer that is late is asked for again.
pub(crate) async fn answered(instance: &Instance) -> bool {
    let began = Instant::now();
    loop {
        match instance.replica.lookup(&[token("j")], None).await {
            Ok(hit) => return hit.is_some(),
            Err(error) => assert!(began.elapsed() < PATIENCE, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Deadlines that a right answer keeps on a busy machine, too.
pub(crate) fn patient(server: impl Into<Redis>) -> RedisConfig {
    RedisConfig {
        lookup_deadline: PATIENCE / 2,
        write_deadline: PATIENCE / 4,
        command_deadline: Duration::from_secs(2),
        ..RedisConfig::new(server)
    }
}

/// Waits until it holds.
pub(crate) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub(crate) fn now() -> Timestamp {
    doorward::clock::now()
}

pub(crate) fn target(kind: Kind, id: &str) -> Target {
    Target::new(IssuerName::parse("main").unwrap(), kind, TargetId::new(id))
}

pub(crate) fn token(id: &str) -> Target {
    target(Kind::Token, id)
}

/// A token signed out for an hour.
pub(crate) fn sign_out(id: &str) -> Revocation {
    Revocation {
        target: token(id),
        watermark: Watermark::FOREVER,
        expires_at: now().plus(Duration::from_secs(3600)),
        origin: Origin::SignedOut,
        note: None,
    }
}

/// The keys `blacklist:{jti}` of another service.
pub(crate) fn blacklist() -> AdoptedKeys {
    AdoptedKeys::Each { before: "blacklist:".to_owned(), after: String::new(), names: Names::TokenId }
}

/// All tokens of a user up to an instant, for an hour.
pub(crate) fn revoke_user(id: &str, at: Timestamp) -> Revocation {
    let expires_at = now().plus(Duration::from_secs(3600));
    let target = target(Kind::User, id);
    Revocation { target, watermark: Watermark::at(at), expires_at, origin: Origin::Revoked, note: None }
}

/// Polls all of them at once.
pub(crate) async fn join_all<T>(futures: Vec<impl Future<Output = T>>) -> Vec<T> {
    let mut futures: Vec<_> = futures.into_iter().map(|future| (Box::pin(future), None)).collect();
    std::future::poll_fn(|context| {
        let mut pending = false;
        for (future, output) in &mut futures {
            if output.is_none() {
                match future.as_mut().poll(context) {
                    std::task::Poll::Ready(value) => *output = Some(value),
                    std::task::Poll::Pending => pending = true,
                }
            }
        }
        if pending { std::task::Poll::Pending } else { std::task::Poll::Ready(()) }
    })
    .await;
    futures.into_iter().map(|(_, output)| output.unwrap()).collect()
}
