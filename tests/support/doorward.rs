//! The real binary as a child process.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::clock::Clock;
use super::{PATIENCE, Process, TempDir, eventually};

pub struct Doorward {
    pub process: Process,
    /// Where Envoy would reach it: `127.0.0.1:PORT`, or `unix:PATH`.
    pub check: String,
    pub http: SocketAddr,
    /// `listen.admin`, when it is set.
    pub admin: Option<SocketAddr>,
    /// The lines that it has logged.
    pub log: Arc<Mutex<Vec<String>>>,
    pub dir: TempDir,
}

impl Doorward {
    /// Starts `doorward serve` on free ports and waits until it is ready.
    pub async fn start(config: &str) -> Self {
        let doorward = Self::launch(config).await;
        doorward.ready().await;
        doorward
    }

    /// As [`Self::start`], with a wall clock that the test steps.
    pub async fn start_with_clock(config: &str) -> (Self, Clock) {
        let clock = Clock::at("+0");
        let doorward = Self::launch_by(clock.doorward(), TempDir::new(), config).await;
        doorward.ready().await;
        (doorward, clock)
    }

    /// Starts it without waiting for more than its listeners.
    pub async fn launch(config: &str) -> Self {
        Self::launch_in(TempDir::new(), config).await
    }

    /// `listen` is added unless `config` has it; `DIR/` in it is the test's folder. With the slash, because `DIR` alone may
    /// be a part of a key that is written in base64url.
    pub async fn launch_in(dir: TempDir, config: &str) -> Self {
        Self::launch_by(Command::new(env!("CARGO_BIN_EXE_doorward")), dir, config).await
    }

    /// As [`Self::launch_in`]; `command` becomes the binary with the arguments that are added.
    pub async fn launch_by(mut command: Command, dir: TempDir, config: &str) -> Self {
        let listen =
            if config.contains("listen:") { "" } else { "listen: {check: \"127.0.0.1:0\", http: \"127.0.0.1:0\"}\n" };
        let config = format!("{listen}{config}").replace("DIR/", &format!("{}/", dir.path().display()));
        let file = dir.path().join("doorward.yaml");
        std::fs::write(&file, config).unwrap();
        let started = Instant::now();
        let mut child = command
            .args(["serve", "--config"])
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let (stderr, lines) = (child.stderr.take().unwrap(), log.clone());
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                lines.lock().unwrap().push(line);
            }
        });
        let process = Process(child);
        let listening = || {
            let lines = log.lock().unwrap();
            lines
                .iter()
                .filter_map(|line| serde_json::from_str::<Value>(line).ok())
                .find(|line| line["message"] == "listening")
        };
        while listening().is_none() {
            assert!(started.elapsed() < PATIENCE, "doorward does not listen:\n{}", log.lock().unwrap().join("\n"));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let listening = listening().unwrap();
        let text = |name: &str| listening[name].as_str().unwrap_or_default().to_owned();
        let (http, admin) = (text("http").parse().unwrap(), text("admin").parse().ok());
        Self { process, check: text("check"), http, admin, log, dir }
    }

    pub async fn ready(&self) {
        eventually("doorward is ready", || async { self.get("/readyz").await.0 == 200 }).await;
    }

    pub async fn get(&self, path: &str) -> (u16, String) {
        let response = reqwest::get(format!("http://{}{path}", self.http)).await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    }

    /// `POST` with a bearer token and no body.
    pub async fn post(&self, path: &str, token: &str) -> (u16, String) {
        let request = reqwest::Client::new().post(format!("http://{}{path}", self.http)).bearer_auth(token);
        let response = request.send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    }

    /// The value of a metric; `series` is its name with its labels as the exposition writes them.
    pub async fn metric(&self, series: &str) -> Option<f64> {
        let (_, text) = self.get("/metrics").await;
        text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
    }

    /// Waits for a line with this text: a separate thread writes the log.
    pub async fn logs(&self, text: &str) {
        super::eventually(&format!("{text:?} is logged"), async || self.logged(text)).await;
    }

    /// Whether a line with this text was logged up to now.
    pub fn logged(&self, text: &str) -> bool {
        self.log.lock().unwrap().iter().any(|line| line.contains(text))
    }

    /// Sends SIGTERM and returns the exit code.
    pub async fn stop(&mut self) -> Option<i32> {
        self.process.signal("TERM");
        self.exit_code().await
    }

    pub async fn exit_code(&mut self) -> Option<i32> {
        let started = Instant::now();
        loop {
            if let Some(status) = self.process.0.try_wait().unwrap() {
                return status.code();
            }
            assert!(started.elapsed() < PATIENCE, "doorward does not end");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Runs the binary to its end: its exit code, standard output and standard error.
pub fn run(args: &[&str], stdin: &str) -> (i32, String, String) {
    run_with(&[], args, stdin)
}

/// As [`run`], with more in its environment.
pub fn run_with(env: &[(&str, &str)], args: &[&str], stdin: &str) -> (i32, String, String) {
    use std::io::Write;
    let mut child = Command::new(env!("CARGO_BIN_EXE_doorward"))
        .args(args)
        .envs(env.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes()); // The process may not read it.
    let output = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
}
